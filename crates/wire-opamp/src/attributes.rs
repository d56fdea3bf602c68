//! Attributes as JSON, and those that every fleet looks for.
//!
//! Towards JSON, whole numbers stay whole (all 64 bits of them) and other numbers keep their point. Two things become
//! texts and stay so on the way back: bytes, as Base64, and the numbers that JSON has not, as `NaN`, `Infinity` and
//! `-Infinity`. Of a key that is there twice the last one counts, as in protobuf's maps.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use crate::proto::any_value::Value as Kind;
use crate::proto::{AgentDescription, AnyValue, ArrayValue, KeyValue, KeyValueList};

/// What the agent's program is called, such as `io.opentelemetry.collector`.
pub const SERVICE_NAME: &str = "service.name";
/// Which group of services it belongs to.
pub const SERVICE_NAMESPACE: &str = "service.namespace";
/// The program's version.
pub const SERVICE_VERSION: &str = "service.version";
/// Which of the program's instances it is; some agents draw another one at each start.
pub const SERVICE_INSTANCE_ID: &str = "service.instance.id";
/// The stage that it works for, such as `production`.
pub const DEPLOYMENT_ENVIRONMENT_NAME: &str = "deployment.environment.name";
/// The machine, by its id.
pub const HOST_ID: &str = "host.id";
/// The machine, by its name.
pub const HOST_NAME: &str = "host.name";
/// The machine's processor, such as `arm64`.
pub const HOST_ARCH: &str = "host.arch";
/// The system's kind, such as `linux`.
pub const OS_TYPE: &str = "os.type";
/// The system's name for people.
pub const OS_DESCRIPTION: &str = "os.description";
/// The system's version.
pub const OS_VERSION: &str = "os.version";

impl KeyValue {
    /// An attribute whose value is a text.
    pub fn text(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: Some(AnyValue {
                value: Some(Kind::StringValue(value.into())),
            }),
        }
    }
}

impl AgentDescription {
    /// The value of an attribute, looked for among the identifying ones first.
    pub fn attribute(&self, key: &str) -> Option<&AnyValue> {
        find(&self.identifying_attributes, key)
            .or_else(|| find(&self.non_identifying_attributes, key))
    }

    /// An attribute that is a text and not empty, looked for among the identifying ones first.
    pub fn text(&self, key: &str) -> Option<&str> {
        text(&self.identifying_attributes, key)
            .or_else(|| text(&self.non_identifying_attributes, key))
    }
}

/// The value of an attribute; none when the key is not there or has no value.
pub fn find<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a AnyValue> {
    let found = attributes.iter().rfind(|attribute| attribute.key == key)?;
    found.value.as_ref()
}

/// An attribute that is a text and not empty.
pub fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match &find(attributes, key)?.value {
        Some(Kind::StringValue(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// Attributes as a JSON object, in the order in which they came.
pub fn to_json(attributes: &[KeyValue]) -> Map<String, Value> {
    attributes
        .iter()
        .map(|attribute| {
            let value = attribute.value.as_ref().map_or(Value::Null, value_to_json);
            (attribute.key.clone(), value)
        })
        .collect()
}

/// A value as JSON: bytes as Base64, nothing as null.
pub fn value_to_json(value: &AnyValue) -> Value {
    match &value.value {
        None => Value::Null,
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::BoolValue(flag)) => Value::Bool(*flag),
        Some(Kind::IntValue(number)) => Value::from(*number),
        Some(Kind::DoubleValue(number)) => double_to_json(*number),
        Some(Kind::ArrayValue(array)) => array.values.iter().map(value_to_json).collect(),
        Some(Kind::KvlistValue(list)) => Value::Object(to_json(&list.values)),
        Some(Kind::BytesValue(bytes)) => Value::String(STANDARD.encode(bytes)),
    }
}

fn double_to_json(number: f64) -> Value {
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        None if number.is_nan() => Value::from("NaN"),
        None if number > 0.0 => Value::from("Infinity"),
        None => Value::from("-Infinity"),
    }
}

/// Attributes from a JSON object, in its order. Whole numbers beyond 63 bits become numbers with a fraction.
pub fn from_json(object: &Map<String, Value>) -> Vec<KeyValue> {
    object
        .iter()
        .map(|(key, value)| KeyValue {
            key: key.clone(),
            value: Some(value_from_json(value)),
        })
        .collect()
}

/// A value from JSON.
pub fn value_from_json(value: &Value) -> AnyValue {
    let value = match value {
        Value::Null => None,
        Value::Bool(flag) => Some(Kind::BoolValue(*flag)),
        Value::Number(number) => match number.as_i64() {
            Some(number) => Some(Kind::IntValue(number)),
            None => number.as_f64().map(Kind::DoubleValue),
        },
        Value::String(text) => Some(Kind::StringValue(text.clone())),
        Value::Array(values) => Some(Kind::ArrayValue(ArrayValue {
            values: values.iter().map(value_from_json).collect(),
        })),
        Value::Object(object) => Some(Kind::KvlistValue(KeyValueList {
            values: from_json(object),
        })),
    };
    AnyValue { value }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;

    fn attribute(key: &str, value: Option<Kind>) -> KeyValue {
        KeyValue {
            key: key.to_owned(),
            value: Some(AnyValue { value }),
        }
    }

    #[test]
    fn every_kind_of_value_has_its_json() {
        let inner = vec![KeyValue::text("b", "2"), KeyValue::text("a", "1")];
        let attributes = [
            KeyValue::text("text", "ä\n"),
            attribute("flag", Some(Kind::BoolValue(true))),
            attribute("least", Some(Kind::IntValue(i64::MIN))),
            attribute("most", Some(Kind::IntValue(i64::MAX))),
            attribute("whole", Some(Kind::DoubleValue(1.0))),
            attribute("nan", Some(Kind::DoubleValue(f64::NAN))),
            attribute("up", Some(Kind::DoubleValue(f64::INFINITY))),
            attribute("down", Some(Kind::DoubleValue(f64::NEG_INFINITY))),
            attribute(
                "bytes",
                Some(Kind::BytesValue(Bytes::from_static(&[0, 0xff, 0x10]))),
            ),
            attribute(
                "array",
                Some(Kind::ArrayValue(ArrayValue {
                    values: vec![AnyValue::default(), value_from_json(&json!(3))],
                })),
            ),
            attribute(
                "list",
                Some(Kind::KvlistValue(KeyValueList { values: inner })),
            ),
            attribute("null", None),
            KeyValue {
                key: String::from("absent"),
                value: None,
            },
        ];
        assert_eq!(
            serde_json::to_string(&to_json(&attributes)).unwrap(),
            concat!(
                r#"{"text":"ä\n","flag":true,"least":-9223372036854775808,"most":9223372036854775807,"#,
                r#""whole":1.0,"nan":"NaN","up":"Infinity","down":"-Infinity","bytes":"AP8Q","#,
                r#""array":[null,3],"list":{"b":"2","a":"1"},"null":null,"absent":null}"#
            )
        );
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let object =
            json!({"a": [1, 1.0, -0.5, null, true, "x", {"b": {}, "c": []}], "d": i64::MIN});
        let attributes = from_json(object.as_object().unwrap());
        assert_eq!(Value::Object(to_json(&attributes)), object);
        let large = value_from_json(&json!(u64::MAX));
        assert_eq!(large.value, Some(Kind::DoubleValue(u64::MAX as f64)));
    }

    #[test]
    fn identifying_attributes_come_first_and_of_two_the_last_counts() {
        let description = AgentDescription {
            identifying_attributes: vec![
                KeyValue::text(SERVICE_NAME, "first"),
                KeyValue::text(SERVICE_NAME, "otelcol"),
                KeyValue::text(HOST_NAME, ""),
            ],
            non_identifying_attributes: vec![
                KeyValue::text(SERVICE_NAME, "other"),
                KeyValue::text(HOST_NAME, "vm"),
                attribute(OS_VERSION, Some(Kind::IntValue(12))),
            ],
        };
        assert_eq!(description.text(SERVICE_NAME), Some("otelcol"));
        assert_eq!(
            description.text(HOST_NAME),
            Some("vm"),
            "an empty text is none"
        );
        assert_eq!(description.text(OS_VERSION), None, "not a text");
        assert_eq!(
            description.attribute(OS_VERSION).map(value_to_json),
            Some(json!(12))
        );
        assert_eq!(description.text(HOST_ID), None);
        assert_eq!(
            to_json(&description.identifying_attributes)[SERVICE_NAME],
            "otelcol"
        );
    }
}
