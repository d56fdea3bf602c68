//! Secrets in what agents report, their configurations above all: masked before anything is kept.
//!
//! A value is masked when its key looks like that of a credential, and with it everything below; so is the `value` of a pair
//! whose `name` or `key` does, and a password inside an address. Only the values are replaced, in place: the rest of a file
//! stays as it was. A file that cannot be read is not kept at all, since nobody knows what stands in it.

mod attributes;
mod texts;
mod yaml;

use serde_json::{Map, Value, json};

use muster_wire_opamp::proto::EffectiveConfig;

use crate::limits::MAX_CONFIG_FILES;
use crate::values::bounded;

/// What stands in the place of a secret.
pub const MASK: &str = "[MASKED]";

/// What keys look like that hold credentials, with commas between: in lower case and without separators.
pub const DEFAULT_KEYS_LIST: &str = "password, passphrase, passwd, pwd, secret, token, apikey, accesskey, privatekey, keypem, \
     signingkey, licensekey, ingestkey, authorization, credential, cookie, connectionstring, datasource, dsn, \
     sharedkey, accountkey, instrumentationkey, writekey, hmac, community";

/// Which values are masked.
#[derive(Debug, Clone)]
pub struct Masking {
    keys: Vec<String>,
}

impl Default for Masking {
    fn default() -> Self {
        let keys: Vec<&str> = DEFAULT_KEYS_LIST.split(',').collect();
        Self::new(&keys)
    }
}

/// A key in lower case without what separates its words.
fn plain(key: &str) -> String {
    let kept = key.chars().filter(|character| character.is_alphanumeric());
    kept.flat_map(char::to_lowercase).collect()
}

impl Masking {
    /// Masks the values of keys that contain one of these words, whatever their case and separators.
    pub fn new<S: AsRef<str>>(keys: &[S]) -> Self {
        let keys = keys.iter().map(|key| plain(key.as_ref()));
        Self {
            keys: keys.filter(|key| !key.is_empty()).collect(),
        }
    }

    /// Whether a key looks like that of a credential. What points to a file is none.
    fn is_secret(&self, key: &str) -> bool {
        let key = plain(key);
        !["file", "path", "url", "name", "type", "enabled", "ttl"]
            .iter()
            .any(|end| key.ends_with(end))
            && self.keys.iter().any(|word| key.contains(word.as_str()))
    }

    /// A file with its secrets masked; none when it cannot be read.
    pub fn file(&self, text: &str) -> Option<String> {
        yaml::mask(text, self)
    }

    /// A text that is no file, with the secrets inside it masked.
    pub fn text(&self, text: &str) -> String {
        yaml::text(text, self)
    }

    /// An effective configuration as it is kept: file by file.
    pub(crate) fn effective(&self, said: &EffectiveConfig) -> Value {
        let mut files = Map::new();
        let map = said.config_map.iter().flat_map(|map| &map.config_map);
        for (name, object) in map.take(MAX_CONFIG_FILES) {
            let mut file = Map::new();
            if !object.content_type.is_empty() {
                let kind = bounded(&object.content_type, 256);
                file.insert("content_type".to_owned(), kind.into());
            }
            let masked = std::str::from_utf8(&object.body).ok();
            match masked.and_then(|text| self.file(text)) {
                Some(text) => file.insert("body".to_owned(), text.replace('\0', "").into()),
                None => file.insert(
                    "withheld".to_owned(),
                    json!({ "reason": "it is neither YAML nor JSON, so that secrets in it could not be masked",
                            "bytes": object.body.len() }),
                ),
            };
            files.insert(bounded(name, 256), Value::Object(file));
        }
        Value::Object(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(text: &str) -> String {
        Masking::default().file(text).expect("it can be read")
    }

    #[test]
    fn values_of_credentials_are_masked_in_place_and_the_rest_stays() {
        let text = "# a comment\nexporters:\n  otlp:\n    endpoint: \"collector:4317\" # here\n    headers:\n      \
                    Authorization: Bearer hunter2\n      x-tenant: blue\n    tls: {insecure: true, key_pem: 'hunter2'}\n";
        assert_eq!(
            masked(text),
            "# a comment\nexporters:\n  otlp:\n    endpoint: \"collector:4317\" # here\n    headers:\n      \
             Authorization: \"[MASKED]\"\n      x-tenant: blue\n    tls: {insecure: true, key_pem: \"[MASKED]\"}\n"
        );
    }

    #[test]
    fn no_spelling_of_a_secret_survives() {
        for text in [
            "password: hunter2",
            "db_password: hunter2",
            "API-Key: hunter2",
            "apiKey: hunter2\n",
            "a: {b: {client_secret: hunter2}}",
            "{\"token\": \"hunter2\"}",
            "token: |\n  hunter2\n  hunter2\nnext: 1\n",
            "token: >-\n  hunter2\n",
            "token: 'it''s hunter2'",
            "token: \"\\u0068unter2 hunter2\"",
            "tokens:\n  - hunter2\n  - {deep: hunter2}\n",
            "secret:\n  nested: [hunter2, {a: hunter2}]\n",
            "headers:\n  - name: Authorization\n    value: hunter2\n",
            "headers:\n  - value: hunter2\n    name: X-Api-Key\n",
            "headers:\n  - {key: api_token, value: hunter2}\n",
            "token: &t hunter2\nother: *t\n",
            "other: &t hunter2\ntoken: *t\n",
            "? password\n: hunter2\n",
            "token: !!str hunter2",
            "a: 1\n---\npassword: hunter2\n",
            "endpoint: https://ann:hunter2@example.com/path",
            "endpoint: postgres://ann:hunter2@example.com/path?a=b",
            "dsn: 'user=ann password=hunter2'",
            "args: ['--password=hunter2']",
            "args: ['--password=hunter2 hunter2']",
            "datasource: 'host=db user=ann password=hunter2'",
            "other: 'host=db user=ann password=hunter2 sslmode=off'",
            "other: Server=db;User Id=ann;Pwd = hunter2;Encrypt=yes",
            "other: \"host=db password='hunter2 hunter2' user=ann\"",
            "endpoint: amqp://ann:guest@first,amqp://ann:hunter2@second",
            "endpoints: 'a://ann:x@b/c and d://ann:hunter2@e'",
            "endpoint: https://hunter2@example.com/path",
            "endpoint: https://example.com/path?api_key=hunter2&a=b",
            "other: ann:hunter2@tcp(db:3306)/logs",
            "other: ann:hunter2@unix(/run/db)/logs",
            "environment: [DB_PASSWORD=hunter2]",
            "# password: hunter2\na: 1\n",
            "a:\n  # password: hunter2\n  password: hunter2\n  ## - token=hunter2\n",
            "config: |\n  exporters:\n    otlp:\n      headers:\n        authorization: Bearer hunter2\n",
            "snmp: {community: hunter2, shared_key: hunter2, instrumentation_key: hunter2}",
        ] {
            let masked = masked(text);
            assert!(!masked.contains("hunter2"), "{text:?} became {masked:?}");
        }
    }

    #[test]
    fn what_only_looks_a_little_like_a_credential_stays() {
        for text in [
            "token_file: /var/run/token\n",
            "tls: {key_file: /etc/key.pem}\n",
            "auth: {authenticator: basicauth}\n",
            "endpoint: https://example.com:4318/v1/traces\n",
            "endpoint: https://example.com/path?to=ann@example.com\n",
            "statement: set(attributes[\"a\"], \"b\") where attributes[\"c\"] == \"d\"\n",
            "other: host=db user=ann password=${env:PASSWORD} sslmode=off\n",
            "other: first password= and second\n",
            "# a comment: about things\nother: 1 # token: see below\n",
            "text: |\n  pipelines: [a]\n  token: ${env:TOKEN}\n",
            "receivers: {otlp: {protocols: {grpc: {}}}}\n",
            "é: ü\npipelines:\n- a\n- b\n",
            "",
        ] {
            assert_eq!(masked(text), text);
        }
    }

    #[test]
    fn what_cannot_be_read_is_not_kept() {
        let masking = Masking::default();
        for text in [
            "password: [hunter2",
            "{\"password\": \"hunter2\"",
            "a: b: c: d",
        ] {
            assert_eq!(masking.file(text), None, "{text:?}");
        }
        let deep = "[".repeat(100_000);
        assert_eq!(masking.file(&deep), None);
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(masking.file(&deep), None);
    }

    #[test]
    fn an_operator_decides_which_keys_are_masked() {
        let masking = Masking::new(&["tenant"]);
        let text = "x-tenant: blue\npassword: shown\n";
        assert_eq!(
            masking.file(text).unwrap(),
            "x-tenant: \"[MASKED]\"\npassword: shown\n"
        );
    }
}
