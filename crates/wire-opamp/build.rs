//! Makes the types of `proto/` at build time, in Rust alone: protox reads the files, so that nobody needs `protoc`.

use std::error::Error;

const FILES: [&str; 2] = [
    "proto/opamp/v1/anyvalue.proto",
    "proto/opamp/v1/opamp.proto",
];

/// Types whose `Debug` is written by hand, because secrets are in them.
const WITH_SECRETS: [&str; 6] = [
    "AgentConfigObject",
    "CustomMessage",
    "Header",
    "OtherConnectionSettings",
    "ProxyConnectionSettings",
    "TLSCertificate",
];

fn main() -> Result<(), Box<dyn Error>> {
    let files = protox::compile(FILES, ["proto"])?;
    let with_secrets = WITH_SECRETS.map(|name| format!("opamp.proto.v1.{name}"));
    prost_build::Config::new()
        // Without copies; and maps in the order of their keys, so that one message is always the same bytes.
        .bytes(["."])
        .btree_map(["."])
        .skip_debug(with_secrets)
        .compile_fds(files)?;
    println!("cargo::rerun-if-changed=proto");
    Ok(())
}
