//! What is said about a text that is no JSON, or not the right one.

/// The message of a reader of JSON in the words of JSON. Readers name the types of the programming language.
pub(crate) fn in_words(message: &str) -> String {
    const WORDS: [(&str, &str); 10] = [
        ("expected f64", "expected a number"),
        ("expected usize", "expected a whole number"),
        ("expected u64", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected a sequence", "expected a list"),
        ("expected sequence", "expected a list"),
        ("expected string or map", "expected a string or an object"),
        ("expected unit", "expected no value beside the name"),
        ("invalid type: sequence", "invalid type: a list"),
        ("invalid type: map", "invalid type: an object"),
    ];
    let message =
        WORDS.iter().fold(message.to_owned(), |text, (reader, words)| text.replacen(reader, words, 1));
    // "expected struct ModelFields", "expected struct variant TeacherFields::Wishart with 1 element".
    match message.split_once("expected struct ") {
        Some((before, after)) => {
            let rest = after.strip_prefix("variant ").unwrap_or(after);
            let name = rest.find(|c: char| !(c.is_alphanumeric() || c == ':')).unwrap_or(rest.len());
            format!("{before}expected an object{}", &rest[name..])
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_in_the_words_of_json() {
        for (reader, words) in [
            ("invalid type: sequence, expected f64", "invalid type: a list, expected a number"),
            ("invalid type: map, expected usize", "invalid type: an object, expected a whole number"),
            (
                "invalid value: integer `-1`, expected u64",
                "invalid value: integer `-1`, expected a whole number",
            ),
            (
                "invalid type: string \"f64\", expected a sequence",
                "invalid type: string \"f64\", expected a list",
            ),
            (
                "invalid type: integer `1`, expected struct variant TeacherFields::Wishart at line 2 column 3",
                "invalid type: integer `1`, expected an object at line 2 column 3",
            ),
            ("invalid type: null, expected struct ModelFields", "invalid type: null, expected an object"),
            ("unknown field `map`, expected `alpha`", "unknown field `map`, expected `alpha`"),
        ] {
            assert_eq!(in_words(reader), words);
        }
    }
}
