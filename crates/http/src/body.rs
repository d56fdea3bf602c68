//! Bodies of requests, with limits on their inflated size, their depth and their time.

use std::io::{Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::Problem;

/// The largest inflated body that a route takes which names no other limit: 1 MiB.
pub const DEFAULT_BODY_BYTES: usize = 1024 * 1024;

/// How long a whole body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(30);

/// The limit of a route's inflated body in bytes: `route_layer(Extension(BodyLimit(5 * 1024 * 1024)))`.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit(pub usize);

/// How many bytes of bodies may wait in memory at a time until they are complete, over all connections: an extension of
/// the request. Without it only the route's own limit holds. Whoever comes when it is used up is told 503.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Budget>);

#[derive(Debug)]
struct Budget {
    all: Semaphore,
    /// What routes that are less urgent may take of it.
    less_urgent: Semaphore,
}

impl BodyBudget {
    /// A budget of so many bytes; of which routes that are [less urgent](LessUrgent) may take half.
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Budget {
            all: Semaphore::new(bytes),
            less_urgent: Semaphore::new(bytes / 2),
        }))
    }
}

/// Marks a route whose bodies may wait when there is too much to do: `layer(Extension(LessUrgent))`.
#[derive(Debug, Clone, Copy)]
pub struct LessUrgent;

/// What one body has taken of the budget, until it is complete.
#[derive(Default)]
struct Share<'a> {
    budget: Option<&'a BodyBudget>,
    is_less_urgent: bool,
    taken: Option<SemaphorePermit<'a>>,
    taken_less_urgent: Option<SemaphorePermit<'a>>,
}

fn more<'a>(
    room: &'a Semaphore,
    taken: &mut Option<SemaphorePermit<'a>>,
    bytes: u32,
) -> Result<(), Problem> {
    let permit = room.try_acquire_many(bytes);
    let permit = permit.map_err(|_| Problem::unavailable(&BudgetUsedUp))?;
    match taken {
        Some(taken) => taken.merge(permit),
        None => *taken = Some(permit),
    }
    Ok(())
}

impl Share<'_> {
    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let Some(budget) = self.budget else {
            return Ok(());
        };
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        if self.is_less_urgent {
            more(&budget.0.less_urgent, &mut self.taken_less_urgent, bytes)?;
        }
        more(&budget.0.all, &mut self.taken, bytes)
    }
}

/// Too many large bodies arrive at once.
#[derive(Debug, thiserror::Error)]
#[error("too many requests with large bodies arrive at once")]
struct BudgetUsedUp;

/// A JSON body.
///
/// `Content-Type` is not looked at, since real agents send none or a wrong one. What follows the first JSON value is
/// ignored, as Fleet does. An empty body reads as `{}`.
#[derive(Debug, Clone, Copy)]
pub struct Json<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let limit = request
            .extensions()
            .get::<BodyLimit>()
            .map_or(DEFAULT_BODY_BYTES, |limit| limit.0);
        let bytes = read_text(request, limit).await?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        parse_json(bytes).map(Self)
    }
}

/// Parses the JSON object that a body begins with; nesting beyond 128 levels is refused. `null` counts as an object
/// without members, as Fleet has it.
pub fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Problem> {
    let bytes = bytes.trim_ascii_start();
    let bytes = if bytes.starts_with(b"null") {
        b"{}"
    } else {
        bytes
    };
    if !bytes.starts_with(b"{") {
        // serde would read a struct from a list, too.
        return Err(Problem::bad_request("the body is not a JSON object").with_code("bad_json"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    T::deserialize(&mut reader).map_err(|error| {
        // serde's message can quote a value of the body, and the body may hold a secret: give the place only.
        Problem::bad_request(match error.classify() {
            serde_json::error::Category::Eof => "the JSON body ends too early".to_owned(),
            serde_json::error::Category::Data => format!(
                "the JSON body has a value of the wrong kind at line {}, column {}",
                error.line(),
                error.column()
            ),
            _ => format!(
                "the body is not JSON at line {}, column {}",
                error.line(),
                error.column()
            ),
        })
        .with_code("bad_json")
    })
}

/// Reads a body that is text, as [`read_body`] does. What is no UTF-8 is replaced, as Fleet does: some agents send what they
/// find, and the name of one file must not spoil all that they answer.
pub async fn read_text(request: Request, limit_bytes: usize) -> Result<Bytes, Problem> {
    let bytes = read_body(request, limit_bytes).await?;
    Ok(match std::str::from_utf8(&bytes) {
        Ok(_) => bytes,
        Err(_) => String::from_utf8_lossy(&bytes).into_owned().into(),
    })
}

/// Reads a whole body, inflated when it is gzip, of at most `limit_bytes`.
///
/// A larger one is 413, one that takes longer than half a minute 408, broken gzip or a connection that breaks 400, one
/// that comes when all bodies together take too much memory 503.
pub async fn read_body(request: Request, limit_bytes: usize) -> Result<Bytes, Problem> {
    let encoding = request.headers().get(header::CONTENT_ENCODING);
    let gzip = match encoding.map(|value| value.as_bytes().trim_ascii().to_ascii_lowercase()) {
        None => false,
        Some(name) if name == b"gzip" || name == b"x-gzip" => true,
        Some(name) if name.is_empty() || name == b"identity" => false,
        Some(_) => {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_encoding",
                "the body's Content-Encoding is not understood; send it plain or as gzip",
            ));
        }
    };
    let announced = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: usize| bytes > limit_bytes) {
        return Err(over(limit_bytes));
    }
    let (parts, body) = request.into_parts();
    let mut share = Share {
        budget: parts.extensions.get(),
        is_less_urgent: parts.extensions.get::<LessUrgent>().is_some(),
        ..Share::default()
    };
    let collected = collect(body, limit_bytes, &mut share);
    let collected = tokio::time::timeout(BODY_TIME, collected).await;
    let bytes = collected.map_err(|_| {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            "the body did not arrive in time; send it again",
        )
    })??;
    if gzip && !bytes.is_empty() {
        inflate(&bytes, limit_bytes, &mut share)
    } else {
        Ok(bytes)
    }
}

fn over(limit_bytes: usize) -> Problem {
    Problem::too_large(format!(
        "the body is larger than the {limit_bytes} bytes allowed here"
    ))
}

async fn collect(
    mut body: Body,
    limit_bytes: usize,
    share: &mut Share<'_>,
) -> Result<Bytes, Problem> {
    let mut first: Option<Bytes> = None;
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Problem::bad_request("the connection broke before the body was complete")
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        if whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len() > limit_bytes {
            return Err(over(limit_bytes));
        }
        share.take(data.len())?;
        // Nearly every body is one frame, which then is not copied.
        match (first.take(), whole.is_empty()) {
            (None, true) => first = Some(data),
            (Some(start), _) => {
                whole.extend_from_slice(&start);
                whole.extend_from_slice(&data);
            }
            (None, false) => whole.extend_from_slice(&data),
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

fn inflate(bytes: &[u8], limit_bytes: usize, share: &mut Share<'_>) -> Result<Bytes, Problem> {
    let broken = |_| Problem::bad_request("the body is not valid gzip").with_code("bad_gzip");
    // What follows the first member is ignored, like what follows the first JSON value.
    let mut reader = flate2::read::GzDecoder::new(bytes);
    let mut whole = Vec::with_capacity(bytes.len().saturating_mul(4).min(limit_bytes));
    let mut chunk = [0; 16 * 1024];
    loop {
        let length = reader.read(&mut chunk).map_err(broken)?;
        if length == 0 {
            return Ok(whole.into());
        }
        if whole.len() + length > limit_bytes {
            return Err(over(limit_bytes));
        }
        share.take(length)?;
        whole.write_all(&chunk[..length]).map_err(broken)?;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap()
    }

    async fn read(
        body: impl Into<Body>,
        encoding: Option<&str>,
        limit: usize,
    ) -> Result<Bytes, Problem> {
        let mut request = Request::post("/");
        if let Some(encoding) = encoding {
            request = request.header(header::CONTENT_ENCODING, encoding);
        }
        read_body(request.body(body.into()).unwrap(), limit).await
    }

    #[tokio::test]
    async fn plain_and_gzip_bodies_are_read_up_to_the_limit() {
        assert_eq!(read("12345", None, 5).await.unwrap(), "12345");
        assert_eq!(read("123456", None, 5).await.unwrap_err().status(), 413);
        assert_eq!(
            read(gzip(b"12345"), Some("GZIP"), 64).await.unwrap(),
            "12345"
        );
        assert_eq!(
            read("not gzip", Some("gzip"), 64)
                .await
                .unwrap_err()
                .status(),
            400
        );
        assert_eq!(
            read("12345", Some("br"), 64).await.unwrap_err().status(),
            415
        );
    }

    #[tokio::test]
    async fn what_is_more_than_all_bodies_may_take_together_is_told_to_come_again() {
        let budget = BodyBudget::new(100);
        let send = |body: Body, encoding: &'static str| {
            let request = Request::post("/")
                .extension(budget.clone())
                .header(header::CONTENT_ENCODING, encoding);
            tokio::spawn(read_body(request.body(body).unwrap(), 1_000))
        };
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let halves = futures_util::stream::unfold((0, Some(told)), |(number, told)| async move {
            match (number, told) {
                (0, told) => Some((Ok::<_, std::io::Error>("a".repeat(60)), (1, told))),
                (1, Some(told)) => {
                    let _ = told.await;
                    Some((Ok("b".repeat(30)), (2, None)))
                }
                _ => None,
            }
        });
        let slow = send(Body::from_stream(halves), "identity");
        while budget.0.all.available_permits() == 100 {
            tokio::task::yield_now().await;
        }
        let refused = send("x".repeat(50).into(), "identity").await.unwrap();
        assert_eq!(refused.unwrap_err().status(), 503);
        let bomb = send(gzip(&[0; 500]).into(), "gzip").await.unwrap();
        assert_eq!(bomb.unwrap_err().status(), 503);
        tell.send(()).unwrap();
        assert_eq!(slow.await.unwrap().unwrap().len(), 90);
        assert_eq!(budget.0.all.available_permits(), 100, "all is given back");
        let late = send("x".repeat(90).into(), "identity").await.unwrap();
        assert_eq!(late.unwrap().len(), 90);
    }

    #[tokio::test]
    async fn bodies_that_are_less_urgent_leave_room_for_the_others() {
        let budget = BodyBudget::new(100);
        let read = |bytes: usize, is_less_urgent: bool| {
            let mut request = Request::post("/").extension(budget.clone());
            if is_less_urgent {
                request = request.extension(LessUrgent);
            }
            read_body(request.body("x".repeat(bytes).into()).unwrap(), 1_000)
        };
        assert_eq!(read(50, true).await.unwrap().len(), 50);
        assert_eq!(read(51, true).await.unwrap_err().status(), 503);
        assert_eq!(read(100, false).await.unwrap().len(), 100);
        assert_eq!(read(50, true).await.unwrap().len(), 50, "all is given back");
    }

    #[tokio::test]
    async fn what_is_no_utf_8_is_replaced() {
        let body = b"{\"path\":\"/tmp/\xff\xfe\"}".to_vec();
        let text = read_text(Request::post("/").body(body.into()).unwrap(), 100);
        let value: Value = parse_json(&text.await.unwrap()).unwrap();
        assert_eq!(value["path"], "/tmp/\u{fffd}\u{fffd}");
    }

    #[tokio::test]
    async fn a_gzip_bomb_is_refused_at_the_limit() {
        let bomb = gzip(&vec![0; 50_000_000]);
        assert!(bomb.len() < 1_000_000);
        assert_eq!(
            read(bomb, Some("gzip"), DEFAULT_BODY_BYTES)
                .await
                .unwrap_err()
                .status(),
            413
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let never =
            Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(never, None, 64).await.unwrap_err().status(), 408);
    }

    #[tokio::test]
    async fn a_body_in_several_frames_is_put_together() {
        let frames = ["ab", "cd", "ef"]
            .map(|part| Ok::<_, std::io::Error>(Bytes::from_static(part.as_bytes())));
        let body = Body::from_stream(futures_util::stream::iter(frames));
        assert_eq!(read(body, None, 6).await.unwrap(), "abcdef");
    }

    #[test]
    fn what_cannot_be_parsed_is_told_without_quoting_it() {
        for body in [
            "{\"secret\":hunter2}",
            "[\"hunter2\"",
            "\u{ff}hunter2",
            "\"hunter2\"",
        ] {
            let problem =
                parse_json::<std::collections::BTreeMap<String, u8>>(body.as_bytes()).unwrap_err();
            assert_eq!(problem.status(), 400);
            assert!(
                !problem.message().contains("hunter2"),
                "{}",
                problem.message()
            );
        }
        let deep = "[".repeat(100_000);
        assert_eq!(
            parse_json::<Value>(deep.as_bytes()).unwrap_err().status(),
            400
        );
        assert_eq!(
            parse_json::<Value>(b"{\"a\":1}{\"b\":2}").unwrap(),
            serde_json::json!({"a": 1})
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = parse_json::<Value>(&bytes);
            let _ = inflate(&bytes, 1_000, &mut Share::default());
        }
    }
}
