//! Compressed bodies: whatever is in them, no more than the limit comes out, and nothing falls over.
#![no_main]

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;

const LIMIT_BYTES: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    let request = Request::post("/")
        .header("content-encoding", "gzip")
        .body(Body::from(data.to_vec()))
        .expect("a request");
    if let Ok(bytes) = runtime.block_on(muster_http::read_body(request, LIMIT_BYTES)) {
        assert!(bytes.len() <= LIMIT_BYTES);
    }
});
