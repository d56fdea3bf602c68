//! Messages of real clients, damaged, and noise, at a server that serves others meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use muster_clock::{Randomness as _, SeededRandomness};

use super::*;

/// How many agents damage their messages, on each carrier.
const AGENTS: u8 = 100;
/// How many each of them sends: over plain HTTP no more are taken at once.
const MESSAGES: usize = 50;
/// How many agents are at it at a time.
const AT_ONCE: usize = 8;
/// How long a neighbour waits for an answer at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// What opamp-go and the Python client wrote, without their uids.
fn fixtures() -> Vec<Vec<u8>> {
    let texts = [
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../crates/wire-opamp/tests/data/opamp-go.txt"
        )),
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../crates/wire-opamp/tests/data/python.txt"
        )),
    ];
    let lines = texts.iter().flat_map(|text| text.lines());
    let messages: Vec<Vec<u8>> = lines
        .filter_map(|line| line.split_once(' '))
        .map(|(_, digits)| {
            let bytes: Vec<u8> = (0..digits.len() / 2)
                .map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap())
                .collect();
            assert_eq!(bytes[0], 0x0a, "the uid comes first");
            bytes[2 + usize::from(bytes[1])..].to_vec()
        })
        .collect();
    assert!(messages.len() >= 10);
    messages
}

/// Makes damaged messages.
struct Damage {
    fixtures: Vec<Vec<u8>>,
    randomness: SeededRandomness,
}

impl Damage {
    fn below(&self, end: usize) -> usize {
        self.randomness.below(end.max(1) as u64) as usize
    }

    fn noise(&self, most: usize) -> Vec<u8> {
        let mut bytes = vec![0; self.below(most)];
        self.randomness.fill(&mut bytes);
        bytes
    }

    fn fixture(&self) -> &[u8] {
        &self.fixtures[self.below(self.fixtures.len())]
    }

    /// A message of the agent with this uid, damaged after the uid; some are noise altogether.
    fn message(&self, uid: u8) -> Vec<u8> {
        if self.below(12) == 0 {
            return [vec![0x0a], self.noise(300)].concat();
        }
        let mut rest = self.fixture().to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(rest.len());
            match self.below(7) {
                0 => rest.truncate(at),
                1 => drop(rest.splice(at..at, self.noise(20))),
                2 => drop(rest.drain(at..at + self.below(rest.len() - at))),
                3 => {
                    let end = at + self.below(rest.len() - at);
                    let twice = rest[at..end].to_vec();
                    drop(rest.splice(at..at, twice));
                }
                4 => {
                    let other = self.fixture();
                    let from = self.below(other.len());
                    rest.truncate(at);
                    rest.extend_from_slice(&other[from..]);
                }
                5 => {
                    if let Some(byte) = rest.get_mut(at) {
                        *byte = 0xff;
                    }
                }
                _ => {
                    if let Some(byte) = rest.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
            }
        }
        [&[0x0a, 16][..], &[uid; 16], &rest].concat()
    }
}

/// What was answered.
#[derive(Default)]
struct Seen {
    answers: usize,
    refusals: usize,
    uids: BTreeSet<Vec<u8>>,
    new_uids: usize,
}

impl Seen {
    fn note(&mut self, answer: &ServerToAgent) {
        self.answers += 1;
        if answer.error_response.is_some() {
            self.refusals += 1;
            return;
        }
        self.uids.insert(answer.instance_uid.to_vec());
        self.new_uids += usize::from(answer.agent_identification.is_some());
    }
}

async fn by_http(site: Site, token: String, uid: u8, damage: Damage) -> Seen {
    let mut seen = Seen::default();
    for _ in 0..MESSAGES {
        let request = site
            .http
            .post(format!("{}/v1/opamp", site.base))
            .header("content-type", "application/x-protobuf")
            .bearer_auth(&token)
            .body(damage.message(uid));
        let answer = request.send().await.expect("the connection holds");
        match answer.status().as_u16() {
            200 => {
                let bytes = answer.bytes().await.unwrap();
                seen.note(&decode_body(bytes, MessageLimit::default()).unwrap());
            }
            400 => seen.refusals += 1,
            status => panic!("agent {uid} was answered {status}"),
        }
    }
    seen
}

async fn by_socket(address: SocketAddr, token: String, uid: u8, damage: Damage) -> Seen {
    let mut seen = Seen::default();
    let mut socket = open_plain(address, &token).await.unwrap();
    for number in 0..MESSAGES {
        if number % 10 == 9 {
            // So many in a row that make no sense end a socket.
            seen.note(&ask(&mut socket, &described(uid, 1_000)).await);
            continue;
        }
        let message = damage.message(uid);
        // With the header and without.
        let header: &[u8] = if number % 3 == 0 { &[] } else { &[0] };
        let frame = Message::Binary([header, &message].concat().into());
        socket.send(frame).await.expect("the socket holds");
        let answer = hear(&mut socket).await;
        seen.note(&answer.unwrap_or_else(|| panic!("agent {uid} lost its socket: {message:02x?}")));
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_damaged_messages_of_real_clients_hurt_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let server = running(folder.path(), &[("tls.enabled", "false")]).await;
    let (address, base) = (server.address, format!("http://{}", server.address));
    let link = server.setup_link.clone().unwrap();
    let site = Site::set_up(reqwest::Client::new(), base.clone(), &link).await;
    let (_, token) = token(&site).await;
    let url = format!("{base}/v1/opamp");
    for uid in 1..=2 * AGENTS {
        assert_eq!(
            post_to(&site.http, &url, &token, &described(uid, 0))
                .await
                .0,
            200
        );
    }
    let listed = async || {
        let page = site.get("/api/muster/collectors?limit=1000").await.body;
        page["items"].as_array().unwrap().clone()
    };
    let ids = |items: &[Value]| -> BTreeMap<i64, String> {
        let one = |item: &Value| {
            (
                item["id"].as_i64().unwrap(),
                item["host_name"].as_str().unwrap_or_default().to_owned(),
            )
        };
        items.iter().map(one).collect()
    };
    let before = ids(&listed().await);
    assert_eq!(before.len(), usize::from(2 * AGENTS));

    let is_over = Arc::new(AtomicBool::new(false));
    let neighbour = tokio::spawn({
        let (is_over, token) = (Arc::clone(&is_over), token.clone());
        async move {
            let mut socket = open_plain(address, &token).await.unwrap();
            let key = key_of(&ask(&mut socket, &described(250, 0)).await);
            let mut socket = open_plain(address, &key).await.unwrap();
            ask(&mut socket, &described(250, 0)).await;
            let mut number = 0;
            while !is_over.load(Ordering::SeqCst) {
                number += 1;
                let answered =
                    tokio::time::timeout(PATIENCE, ask(&mut socket, &message(250, number))).await;
                assert!(answered.expect("in time").error_response.is_none());
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            number
        }
    });
    let (mut answers, mut refusals, mut strangers) = (0, 0, 0);
    let mut tasks = Vec::new();
    for uid in 1..=2 * AGENTS {
        let damage = Damage {
            fixtures: fixtures(),
            randomness: SeededRandomness::new(20_261_130 + u64::from(uid)),
        };
        let (site, token) = (site.clone(), token.clone());
        tasks.push(tokio::spawn(async move {
            if uid <= AGENTS {
                by_http(site, token, uid, damage).await
            } else {
                by_socket(address, token, uid, damage).await
            }
        }));
        if tasks.len() == AT_ONCE || uid == 2 * AGENTS {
            for seen in join_all(tasks.drain(..)).await {
                let seen = seen.unwrap();
                (answers, refusals) = (answers + seen.answers, refusals + seen.refusals);
                let others = seen
                    .uids
                    .iter()
                    .filter(|uid| uid.iter().any(|byte| *byte != uid[0]));
                strangers += others.count() + seen.new_uids;
            }
        }
    }
    is_over.store(true, Ordering::SeqCst);
    assert!(neighbour.await.unwrap() > 3, "the neighbour went on");
    assert!(
        refusals > 1_000 && answers > 5_000,
        "{answers} answers, {refusals} refusals: both are tried"
    );

    // Each is still there, once, and says what it is.
    for uid in 1..=2 * AGENTS {
        assert_eq!(
            post_to(&site.http, &url, &token, &described(uid, 5_000))
                .await
                .0,
            200,
            "{uid}"
        );
    }
    let after = ids(&listed().await);
    for (id, name) in &before {
        assert_eq!(after.get(id), Some(name), "collector {id}");
        assert_eq!(
            after.values().filter(|other| *other == name).count(),
            1,
            "{name}"
        );
    }
    assert!(
        after.len() <= before.len() + 1 + strangers,
        "{} of {} and {strangers}",
        after.len(),
        before.len()
    );
    assert_eq!(site.get("/healthz").await.status, 200);
    server.shut_down().await;
}
