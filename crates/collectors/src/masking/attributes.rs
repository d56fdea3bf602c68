//! Secrets in what agents say beside their configurations: attributes, arguments of programs, and texts about errors.

use serde_json::{Map, Value};

use super::{MASK, Masking};

impl Masking {
    /// Attributes as they are kept: by name, with all that is below a secret's name masked.
    pub(crate) fn attributes(&self, attributes: &mut Map<String, Value>) {
        for (name, value) in attributes {
            if self.is_secret(name) && !matches!(value, Value::Null | Value::Bool(_)) {
                *value = MASK.into();
                continue;
            }
            self.value(value);
            // All arguments of a program in one text.
            if let (true, Value::String(text)) = (name.ends_with("command_line"), &mut *value) {
                let words: Vec<&str> = text.split(' ').collect();
                *value = self.arguments(&words).join(" ").into();
            }
        }
    }

    fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => {
                let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                match texts {
                    // Perhaps the arguments of a program.
                    Some(texts) => *value = self.arguments(&texts).into(),
                    None => items.iter_mut().for_each(|item| self.value(item)),
                }
            }
            Value::Object(attributes) => self.attributes(attributes),
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    /// Arguments with their secrets masked: `--password=secret`, and `--password` before `secret`.
    fn arguments(&self, arguments: &[&str]) -> Vec<String> {
        let mut is_next = false;
        let masked = arguments.iter().map(|argument| {
            let is_option = argument.starts_with('-');
            let is_secret = std::mem::take(&mut is_next) && !is_option && !argument.is_empty();
            is_next = is_option && !argument.contains('=') && self.is_secret(argument);
            if is_secret {
                MASK.to_owned()
            } else {
                self.text(argument)
            }
        });
        masked.collect()
    }

    /// A tree of health, of components or of packages: its names are those of components, and what they say is masked.
    pub(crate) fn tree(&self, tree: &mut Value) {
        match tree {
            Value::String(text) => *text = self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.tree(item)),
            Value::Object(node) => {
                for (name, value) in node {
                    match value {
                        Value::Object(attributes) if name == "attributes" || name == "metadata" => {
                            self.attributes(attributes);
                        }
                        value => self.tree(value),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn attributes_lose_their_secrets_and_nothing_else() {
        let said = json!({
            "service.name": "otelcol",
            "process.command_args": ["otelcol", "--password=hunter2", "--api-key", "hunter2", "--config", "a.yaml", "--token"],
            "process.command_line": "otelcol --secret hunter2 --verbose on --password=hunter2",
            "process.environment": { "DB_PASSWORD": "hunter2", "HOME": "/root" },
            "upstream": "https://ann:hunter2@example.com/path",
            "session.token": 4711,
            "token.enabled": true,
            "mixed": [1, "--password=hunter2", { "secret": ["hunter2"] }],
        });
        let mut masked = said.as_object().cloned().unwrap_or_default();
        Masking::default().attributes(&mut masked);
        let expected = json!({
            "service.name": "otelcol",
            "process.command_args": ["otelcol", "--password=[MASKED]", "--api-key", "[MASKED]", "--config", "a.yaml", "--token"],
            "process.command_line": "otelcol --secret [MASKED] --verbose on --password=[MASKED]",
            "process.environment": { "DB_PASSWORD": "[MASKED]", "HOME": "/root" },
            "upstream": "https://ann:[MASKED]@example.com/path",
            "session.token": "[MASKED]",
            "token.enabled": true,
            "mixed": [1, "--password=[MASKED]", { "secret": "[MASKED]" }],
        });
        assert_eq!(Value::Object(masked), expected);
    }

    #[test]
    fn in_a_tree_what_components_say_is_masked_and_their_names_stay() {
        let mut tree = json!({ "healthy": false, "components": { "extension:bearertokenauth": { "healthy": false,
            "last_error": "https://ann:hunter2@example.com/path", "attributes": { "api_key": "hunter2", "port": 1 } } } });
        Masking::default().tree(&mut tree);
        let expected = json!({ "healthy": false, "components": { "extension:bearertokenauth": { "healthy": false,
            "last_error": "https://ann:[MASKED]@example.com/path", "attributes": { "api_key": "[MASKED]", "port": 1 } } } });
        assert_eq!(tree, expected);
    }
}
