//! How things look: text for people, JSON for programs.

pub(crate) mod clock;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod json;
pub(crate) mod manual;
pub(crate) mod netcheck;
pub(crate) mod status;
pub(crate) mod style;
pub(crate) mod units;
pub(crate) mod words;

use std::io::Write;

use serde::Serialize;

use crate::failure::Failure;

/// Writes to standard output at once.
pub(crate) fn out(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

/// Makes text from elsewhere harmless to a terminal: control and direction-changing characters become visible escapes.
pub(crate) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        if is_harmless(character) {
            safe.push(character);
        } else {
            safe.extend(character.escape_default());
        }
    }
    safe
}

/// One line of JSON, as harmless to a terminal as other text: JSON itself asks for escapes of ASCII's control characters only.
pub(crate) fn json_line(value: &impl Serialize) -> String {
    harmless(&serde_json::to_string(value).expect("plain data becomes JSON"))
}

/// As [`json_line`], on lines that people can read.
pub(crate) fn json_pretty(value: &impl Serialize) -> String {
    harmless(&serde_json::to_string_pretty(value).expect("plain data becomes JSON"))
}

/// Line feeds are the layout's: those of strings are escaped already.
fn harmless(json: &str) -> String {
    let mut safe = String::with_capacity(json.len());
    for character in json.chars() {
        if character == '\n' || is_harmless(character) {
            safe.push(character);
        } else {
            safe.push_str(&format!("\\u{:04x}", u32::from(character)));
        }
    }
    safe
}

fn is_harmless(character: char) -> bool {
    !character.is_control()
        && !matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{escape, json_line};

    #[test]
    fn text_cannot_steer_the_terminal() {
        assert_eq!(escape("\u{1b}[2Jlaptop\r\n"), "\\u{1b}[2Jlaptop\\r\\n");
        assert_eq!(escape("a\u{202e}b"), "a\\u{202e}b");
        assert_eq!(escape("Büro 2"), "Büro 2");
    }

    #[test]
    fn json_cannot_either_and_says_the_same() {
        let name = "Büro\u{9b}2J\u{202e}\n";
        let json = json_line(&name);
        assert_eq!(json, r#""Büro\u009b2J\u202e\n""#);
        assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), name);
    }
}
