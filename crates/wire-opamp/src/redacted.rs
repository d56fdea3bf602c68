//! `Debug` of messages that have secrets in them, so that no log shows one.

use std::fmt;

use crate::proto::{
    AgentConfigObject, CustomMessage, Header, OtherConnectionSettings, ProxyConnectionSettings,
    TlsCertificate,
};

/// How long a secret is, in place of the secret.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "[{} bytes]", self.0)
    }
}

impl fmt::Debug for AgentConfigObject {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("AgentConfigObject")
            .field("body", &Hidden(self.body.len()))
            .field("content_type", &self.content_type)
            .field("role", &self.role)
            .finish()
    }
}

impl fmt::Debug for CustomMessage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("CustomMessage")
            .field("capability", &self.capability)
            .field("type", &self.r#type)
            .field("data", &Hidden(self.data.len()))
            .finish()
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Header")
            .field("key", &self.key)
            .field("value", &Hidden(self.value.len()))
            .finish()
    }
}

impl fmt::Debug for OtherConnectionSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<&String> = self.other_settings.keys().collect();
        out.debug_struct("OtherConnectionSettings")
            .field("destination_endpoint", &self.destination_endpoint)
            .field("headers", &self.headers)
            .field("certificate", &self.certificate)
            .field("other_settings", &settings)
            .field("tls", &self.tls)
            .field("proxy", &self.proxy)
            .finish()
    }
}

/// The URL may have a password in it.
impl fmt::Debug for ProxyConnectionSettings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ProxyConnectionSettings")
            .field("url", &Hidden(self.url.len()))
            .field("connect_headers", &self.connect_headers)
            .finish()
    }
}

impl fmt::Debug for TlsCertificate {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("TlsCertificate")
            .field("cert", &self.cert)
            .field("private_key", &Hidden(self.private_key.len()))
            .field("ca_cert", &self.ca_cert)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;

    use super::*;
    use crate::proto::{
        AgentConfigMap, AgentRemoteConfig, ConnectionSettingsOffers, Headers,
        OpAmpConnectionSettings, ServerToAgent,
    };

    const SECRET: &str = "not-for-logs";

    #[test]
    fn secrets_of_an_offer_are_not_shown() {
        let secret = || String::from(SECRET);
        let headers = || {
            Some(Headers {
                headers: vec![Header {
                    key: String::from("Authorization"),
                    value: secret(),
                }],
            })
        };
        let certificate = || {
            Some(TlsCertificate {
                private_key: Bytes::from_static(SECRET.as_bytes()),
                ..TlsCertificate::default()
            })
        };
        let proxy = || {
            Some(ProxyConnectionSettings {
                url: format!("http://user:{SECRET}@proxy"),
                connect_headers: headers(),
            })
        };
        let other = OtherConnectionSettings {
            other_settings: BTreeMap::from([(String::from("password"), secret())]),
            headers: headers(),
            certificate: certificate(),
            proxy: proxy(),
            ..OtherConnectionSettings::default()
        };
        let body = AgentConfigObject {
            body: Bytes::from_static(SECRET.as_bytes()),
            ..AgentConfigObject::default()
        };
        let message = ServerToAgent {
            connection_settings: Some(ConnectionSettingsOffers {
                opamp: Some(OpAmpConnectionSettings {
                    headers: headers(),
                    certificate: certificate(),
                    proxy: proxy(),
                    ..OpAmpConnectionSettings::default()
                }),
                other_connections: BTreeMap::from([(String::from("other"), other)]),
                ..ConnectionSettingsOffers::default()
            }),
            remote_config: Some(AgentRemoteConfig {
                config: Some(AgentConfigMap {
                    config_map: BTreeMap::from([(String::new(), body)]),
                }),
                ..AgentRemoteConfig::default()
            }),
            custom_message: Some(CustomMessage {
                data: Bytes::from_static(SECRET.as_bytes()),
                ..CustomMessage::default()
            }),
            ..ServerToAgent::default()
        };
        let shown = format!("{message:?}");
        assert!(!shown.contains(SECRET), "{shown}");
        assert!(shown.contains("Authorization"), "{shown}");
        assert!(shown.contains("[12 bytes]"), "{shown}");
    }
}
