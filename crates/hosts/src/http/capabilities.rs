//! The one middleware of `X-Fleet-Capabilities`.
//!
//! It reads what the peer says into the request's extensions (as [`Saying`]) and writes what servers say now on every
//! success. The peer replaces all it knows with each success, so the header must stand on every one of them; on errors
//! and for an empty set it is absent.

use std::sync::{Arc, OnceLock};

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use muster_negotiation::{CAPABILITIES_HEADER, CapabilitySet, Family, Offer};
use muster_replicas::Standing;

use crate::capability::Saying;

const NAME: HeaderName = HeaderName::from_static(CAPABILITIES_HEADER);
/// How many different headers are kept ready. What is said changes a few times in the life of a server; should it change more
/// often, the header is made anew for each answer.
const KEPT_HEADERS: usize = 16;

/// Headers that were needed so far, each made once. Looking one up takes no lock.
#[derive(Debug, Default)]
struct Headers([OnceLock<(Offer, HeaderValue)>; KEPT_HEADERS]);

impl Headers {
    /// The header of what is said; none when nothing is.
    fn of(&self, offer: Offer) -> Option<HeaderValue> {
        if offer == Offer::NOTHING {
            return None;
        }
        // Names are graphic ASCII, which any header value may hold.
        let made = || HeaderValue::try_from(offer.to_text()).ok();
        for slot in &self.0 {
            if slot.get().is_none() {
                // Another thread may be faster, and with another header: then the next one is looked at.
                let _ = slot.set((offer, made()?));
            }
            match slot.get() {
                Some((kept, header)) if *kept == offer => return Some(header.clone()),
                _ => {}
            }
        }
        made()
    }
}

/// What servers say on a family's exchanges.
#[derive(Clone)]
pub struct Said {
    standing: Standing,
    family: Family,
    headers: Arc<Headers>,
}

impl Said {
    /// On the exchanges of a family.
    pub fn new(standing: &Standing, family: Family) -> Self {
        Self {
            standing: standing.clone(),
            family,
            headers: Arc::default(),
        }
    }

    fn header(&self) -> Option<HeaderValue> {
        self.headers.of(self.standing.said_on(self.family))
    }
}

/// Reads and writes the header. Use it as `from_fn_with_state(Said::new(&standing, family), exchange)`.
pub async fn exchange(State(said): State<Said>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let values = headers.get_all(NAME);
    let user_agent = headers
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok());
    let saying = Saying {
        capabilities: CapabilitySet::parse(values.iter().map(HeaderValue::as_bytes)),
        user_agent: user_agent.unwrap_or_default().to_owned(),
    };
    request.extensions_mut().insert(saying);
    let mut response = next.run(request).await;
    if response.status().is_success()
        && let Some(value) = said.header()
    {
        response.headers_mut().insert(NAME, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use muster_negotiation::Capability;

    use super::*;

    #[test]
    fn each_header_is_made_once_and_more_than_are_kept_are_made_anew() {
        let headers = Headers::default();
        assert_eq!(headers.of(Offer::NOTHING), None);
        let offers: Vec<Offer> = (0..2 * KEPT_HEADERS)
            .map(|number| {
                let is_in = |(index, _): &(usize, &Capability)| (number + 1) >> index & 1 == 1;
                let all = Capability::ALL.iter().enumerate().filter(is_in);
                all.map(|(_, capability)| *capability).collect()
            })
            .collect();
        for _ in 0..2 {
            for offer in &offers {
                assert_eq!(headers.of(*offer).unwrap(), offer.to_text(), "{offer:?}");
            }
        }
        assert!(headers.0.iter().all(|slot| slot.get().is_some()));
    }
}
