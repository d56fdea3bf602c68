//! OpAMP's messages in every form: WebSocket messages with and without a header, bodies, and the uids in them. What can be
//! read can be written, and is the same when it is read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muster_wire_opamp::proto::{AgentToServer, Message, ServerToAgent};
use muster_wire_opamp::{
    AgentCapabilities, InstanceUid, MessageLimit, attributes, decode_body, decode_frame,
    encode_frame,
};

fuzz_target!(|data: &[u8]| {
    let Some((kind, bytes)) = data.split_first() else {
        return;
    };
    let bytes = bytes.to_vec().into();
    let limit = MessageLimit::default();
    match kind % 4 {
        0 => {
            let Ok((message, framing)) = decode_frame::<AgentToServer>(bytes, limit) else {
                return;
            };
            // Numbers that are none are not equal to themselves, so bytes are compared.
            let written = encode_frame(&message, framing, limit).expect("a small message");
            let (read, _) = decode_frame::<AgentToServer>(written.clone(), limit)
                .expect("what was written");
            let again = encode_frame(&read, framing, limit).expect("as long as before");
            assert_eq!(again, written);
            look_at(&message);
        }
        1 => {
            if let Ok(message) = decode_body::<AgentToServer>(bytes, limit) {
                look_at(&message);
            }
        }
        2 => {
            if let Ok((message, _)) = decode_frame::<ServerToAgent>(bytes, limit) {
                let written = message.encode_to_vec();
                let read: ServerToAgent =
                    decode_body(written.into(), limit).expect("what was written");
                assert_eq!(format!("{read:?}"), format!("{message:?}"));
            }
        }
        _ => {
            if let Ok(uid) = InstanceUid::from_wire(&bytes) {
                assert_eq!(uid.to_wire(), bytes);
                assert_eq!(uid.to_string().parse(), Ok(uid));
            }
        }
    }
});

/// What a server does with every message.
fn look_at(message: &AgentToServer) {
    let _ = InstanceUid::from_wire(&message.instance_uid);
    let _ = AgentCapabilities::from_bits(message.capabilities).to_string();
    if let Some(description) = &message.agent_description {
        let _ = description.text(attributes::SERVICE_NAME);
        for list in [
            &description.identifying_attributes,
            &description.non_identifying_attributes,
        ] {
            let json = attributes::to_json(list);
            assert_eq!(attributes::to_json(&attributes::from_json(&json)), json);
        }
    }
    let _ = format!("{message:?}");
}
