//! What the numbers of an outcome mean, in the words of its schema.

use lora_asymptotics::scenario::schema::OUTCOME;
use serde_json::Value;

/// The descriptions of the schema of outcomes.
pub struct Meanings(Value);

impl Meanings {
    pub fn new() -> Result<Self, serde_json::Error> {
        serde_json::from_str(OUTCOME).map(Self)
    }

    /// The first sentence of the description of a number, given its path in the outcome, `lora.errors.test`.
    pub fn of(&self, path: &str, outcome: &Value) -> Option<String> {
        let (mut schema, mut here) = (&self.0, outcome);
        let mut description = None;
        for name in path.split('.') {
            let object = self.fitting(schema, here)?;
            schema = match name.parse::<usize>() {
                Ok(_) => &object["items"],
                Err(_) => &object["properties"][name],
            };
            here = match name.parse::<usize>() {
                Ok(index) => &here[index],
                Err(_) => &here[name],
            };
            description = schema["description"].as_str().or(description);
        }
        // Formulas stand in paragraphs of their own.
        let first = description?.split("\n\n").next()?;
        let text = without_links(first).replace('\n', " ").replace('`', "");
        let end = text.find(". ").or_else(|| text.find("; ")).unwrap_or(text.len());
        Some(text[..end].trim_end_matches(['.', ',', ':']).to_owned())
    }

    /// The schema itself, without references, and of several alternatives the first one whose required fields are there.
    fn fitting<'a>(&'a self, schema: &'a Value, value: &Value) -> Option<&'a Value> {
        if let Some(reference) = schema["$ref"].as_str() {
            let target = self.0.pointer(reference.strip_prefix('#')?)?;
            return self.fitting(target, value);
        }
        match schema["anyOf"].as_array() {
            Some(alternatives) => alternatives.iter().find_map(|one| self.fitting(one, value)),
            None => {
                let mut required = schema["required"].as_array().into_iter().flatten();
                let fits = required.all(|name| name.as_str().is_some_and(|name| value.get(name).is_some()));
                // What is not of any kind has no value.
                let empty = schema["type"] == "null" || schema.get("not").is_some();
                (fits && !empty).then_some(schema)
            }
        }
    }
}

/// The text with the words of its links in their places.
fn without_links(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(middle) = text.find("](") {
        let (Some(begin), Some(length)) = (text[..middle].rfind('['), text[middle..].find(')')) else {
            break;
        };
        text.replace_range(middle..=middle + length, "");
        text.remove(begin);
    }
    text
}
