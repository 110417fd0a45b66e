//! Reading JSON from files and pipes of any operating system.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::error::Error;

/// The byte order mark, with which some programs begin a text in UTF-8. It carries no information.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// The line without a byte order mark at its beginning.
pub(crate) fn without_mark(line: &[u8]) -> &[u8] {
    let mut buffer = [0; 4];
    line.strip_prefix(BYTE_ORDER_MARK.encode_utf8(&mut buffer).as_bytes()).unwrap_or(line)
}

/// Reads a value from JSON, with or without a byte order mark.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let text = text.strip_prefix(BYTE_ORDER_MARK).unwrap_or(text);
    Ok(serde_json::from_str(text)?)
}

/// Reads a value with named fields from an object. A derived reader takes a list, too, as the fields in their order.
pub(crate) fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(fields))
        }
    }

    deserializer.deserialize_map(Fields(PhantomData))
}

/// Reads an object, or `null`.
pub(crate) fn optional_object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(|Object(value)| value))
}

/// A value with named fields that is read from an object.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        object(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_no_object() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Pair {
            first: u32,
            second: u32,
        }
        let read = |text| serde_json::from_str::<Object<Pair>>(text).map(|Object(pair)| pair);
        assert_eq!(read(r#"{"second": 2, "first": 1}"#).unwrap(), Pair { first: 1, second: 2 });
        let message = read("[1, 2]").unwrap_err().to_string();
        assert!(message.starts_with("invalid type: sequence, expected an object"), "{message}");
    }
}
