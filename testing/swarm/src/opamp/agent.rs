//! One agent: it comes with the shared token, takes the key that it is offered, comes again with that, and sends heartbeats.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use muster_clock::{Randomness as _, SeededRandomness};
use muster_wire_opamp::ServerFlags;
use muster_wire_opamp::proto::{AgentToServer, ServerToAgent};
use tokio::time::Instant;

use super::Carrier;
use super::figures::{Figures, Held};
use super::line::{Line, LineError};
use super::said::Speaker;
use crate::host::Target;

/// How long an agent waits before it comes again, at least and with what chance adds at most, in milliseconds.
const LEAST_PAUSE_MS: u64 = 500;
const PAUSE_SPREAD_MS: u64 = 3_000;
/// How often it is heard when an offer does not say.
const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);

/// What all agents of a run have in common.
pub(super) struct Common {
    pub(super) target: Target,
    pub(super) carrier: Carrier,
    /// How many heartbeats of a hundred tell a changed health.
    pub(super) changes_percent: u64,
    /// Whether all are given a configuration.
    pub(super) rolls_out: bool,
    /// How often an agent is heard, in place of what it is offered.
    pub(super) heartbeat: Option<Duration>,
    pub(super) figures: Figures,
}

pub(super) struct Agent {
    common: Arc<Common>,
    randomness: SeededRandomness,
    speaker: Speaker,
    key: Option<String>,
    heartbeat: Duration,
    /// The hash of a configuration that it is at.
    applying: Option<Bytes>,
}

impl Agent {
    pub(super) fn new(number: u32, seed: u64, common: Arc<Common>) -> Self {
        let seed = seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number));
        let randomness = SeededRandomness::new(seed);
        Self {
            speaker: Speaker::new(number, &randomness),
            heartbeat: common.heartbeat.unwrap_or(DEFAULT_HEARTBEAT),
            common,
            randomness,
            key: None,
            applying: None,
        }
    }

    /// Comes after a while, and then lives until it is dropped.
    pub(super) async fn live(mut self, delay: Duration) {
        tokio::time::sleep(delay).await;
        let begun = Instant::now();
        let (mut line, mut held) = loop {
            match self.become_its_own().await {
                Ok(line) => break line,
                Err(error) => self.fail(&error).await,
            }
        };
        self.common.figures.has_own_key(begun.elapsed());
        // Heartbeats of a fleet are spread, however it came.
        let phase = self.randomness.below(self.heartbeat.as_millis() as u64);
        let mut due = Instant::now() + Duration::from_millis(phase);
        loop {
            let Err(error) = self.go_on(&mut line, &mut due).await;
            drop((line, held));
            self.fail(&error).await;
            (line, held) = loop {
                match self.come_again().await {
                    Ok(line) => break line,
                    Err(error) => self.fail(&error).await,
                }
            };
            // What it would have said meanwhile is not made up for.
            due = due.max(Instant::now());
        }
    }

    /// Counts a failure, and waits as clients do.
    async fn fail(&self, error: &LineError) {
        self.common.figures.failed(&error.to_string());
        let pause = LEAST_PAUSE_MS + self.randomness.below(PAUSE_SPREAD_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    /// Until the first answer to a message under its own key.
    async fn become_its_own(&mut self) -> Result<(Line, Held), LineError> {
        let (target, carrier) = (&self.common.target, self.common.carrier);
        if self.key.is_none() {
            let mut line = Line::open(target, carrier, target.secret()).await?;
            self.speaker.begin();
            let everything = self.speaker.everything();
            self.exchange(&mut line, everything).await?;
            if self.key.is_none() {
                return Err(LineError::NoOffer);
            }
            line.close(&self.speaker.goodbye()).await?;
        }
        let mut line = self.open().await?;
        self.speaker.begin();
        let everything = self.speaker.everything();
        self.exchange(&mut line.0, everything).await?;
        Ok(line)
    }

    /// A connection with its key.
    async fn open(&self) -> Result<(Line, Held), LineError> {
        let key = self.key.as_deref().unwrap_or_default();
        let common = &self.common;
        let line = Line::open(&common.target, common.carrier, key).await?;
        Ok((line, Held::new(&self.common)))
    }

    /// After it was cut off: an empty message, and the numbers go on.
    async fn come_again(&mut self) -> Result<(Line, Held), LineError> {
        let mut line = self.open().await?;
        let heartbeat = self.speaker.heartbeat();
        self.exchange(&mut line.0, heartbeat).await?;
        Ok(line)
    }

    /// Heartbeats, until something fails.
    async fn go_on(
        &mut self,
        line: &mut Line,
        due: &mut Instant,
    ) -> Result<std::convert::Infallible, LineError> {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(*due) => {
                    *due += self.heartbeat;
                    let is_change = self.randomness.below(100) < self.common.changes_percent;
                    let message = match (is_change, self.common.rolls_out) {
                        // Of agents that are ill nobody says that they run a configuration well.
                        (true, true) => self.speaker.renewed(),
                        (true, false) => self.speaker.turned(),
                        (false, _) => self.speaker.heartbeat(),
                    };
                    self.exchange(line, message).await?;
                    self.common.figures.beat(is_change);
                }
                said = line.hear() => {
                    if let Some(message) = self.take(&said?)? {
                        self.exchange(line, message).await?;
                    }
                }
            }
        }
    }

    /// Says something, and then whatever the answers ask for.
    async fn exchange(&mut self, line: &mut Line, message: AgentToServer) -> Result<(), LineError> {
        let mut next = Some(message);
        while let Some(message) = next {
            let begun = Instant::now();
            let answer = line.ask(&message).await?;
            self.common.figures.answered(begun.elapsed());
            next = self.take(&answer)?;
        }
        Ok(())
    }

    /// Takes what the server says; gives what is to be said to that.
    fn take(&mut self, said: &ServerToAgent) -> Result<Option<AgentToServer>, LineError> {
        if let Some(error) = &said.error_response {
            return Err(LineError::Refused(error.error_message.clone()));
        }
        if said.connection_settings.is_some() {
            self.common.figures.offered();
            self.take_offer(said)?;
        }
        if let Some(config) = &said.remote_config {
            self.common.figures.configured();
            self.applying = Some(config.config_hash.clone());
            return Ok(Some(self.speaker.applying(&config.config_hash)));
        }
        if let Some(hash) = self.applying.take() {
            return Ok(Some(self.speaker.applied(&hash)));
        }
        let flags = ServerFlags::from_bits(said.flags);
        if flags.contains(ServerFlags::REPORT_FULL_STATE) {
            self.common.figures.asked_for_everything();
            return Ok(Some(self.speaker.everything()));
        }
        if flags.contains(ServerFlags::REPORT_AVAILABLE_COMPONENTS) {
            self.common.figures.asked_for_components();
            return Ok(Some(self.speaker.components()));
        }
        Ok(None)
    }

    fn take_offer(&mut self, said: &ServerToAgent) -> Result<(), LineError> {
        let offer = said.connection_settings.as_ref();
        let offer = offer.and_then(|offer| offer.opamp.as_ref());
        let offer = offer.ok_or(LineError::BadOffer("it has no settings of OpAMP"))?;
        let (scheme, port) = (self.common.carrier.scheme(), self.common.target.port());
        if offer.destination_endpoint != format!("{scheme}://localhost:{port}/v1/opamp") {
            return Err(LineError::BadOffer("it names another address"));
        }
        let certificate = offer.certificate.as_ref();
        if certificate.is_none_or(|certificate| certificate.ca_cert.is_empty()) {
            return Err(LineError::BadOffer("it names no authority"));
        }
        let headers = offer.headers.as_ref().map(|headers| &headers.headers);
        let mut headers = headers.into_iter().flatten();
        let key = headers.find(|header| header.key.eq_ignore_ascii_case("authorization"));
        let key = key.and_then(|header| header.value.strip_prefix("Bearer "));
        let key = key.ok_or(LineError::BadOffer("it has no key"))?;
        self.key = Some(key.to_owned());
        if self.common.heartbeat.is_none() && offer.heartbeat_interval_seconds > 0 {
            self.heartbeat = Duration::from_secs(offer.heartbeat_interval_seconds);
        }
        Ok(())
    }
}
