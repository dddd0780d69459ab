//! The message to a new user, as a mail service takes it.
//!
//! Composed anew the message is the same, its id included: a service that has seen the id sends it once.

use serde::{Deserialize, Serialize};

/// Who is to be welcomed: the payload of `user.welcome`.
#[derive(Debug, Deserialize)]
pub struct Recipient {
    /// How they are addressed.
    pub name: String,
    /// Where the message goes.
    pub email: String,
}

/// The message to be sent.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Message {
    /// The same for every attempt at one event.
    pub message_id: String,
    /// The recipient as in a mail's header.
    pub to: String,
    /// The subject line.
    pub subject: String,
    /// The body, plain text.
    pub text: String,
}

/// Composes the message for a payload; `idempotency_key` is what the host gives for the event.
///
/// # Errors
/// What is wrong with the payload. The same payload is wrong the next time as well.
pub fn compose(payload: &str, idempotency_key: &str) -> Result<Message, String> {
    let Recipient { name, email } = serde_json::from_str(payload)
        .map_err(|error| format!("the payload must be {{\"name\":…,\"email\":…}}: {error}"))?;
    let first_name = name.split_whitespace().next().unwrap_or("there");
    Ok(Message {
        message_id: format!("<{idempotency_key}@welcome.example>"),
        to: format!("{} <{email}>", quoted(&name)),
        subject: format!("Welcome, {first_name}"),
        text: format!("Hello {first_name},\n\nyour account is ready. Sign in with {email}.\n"),
    })
}

/// A display name as RFC 5322 wants it: no name can add a header or a second recipient.
fn quoted(name: &str) -> String {
    let kept: String = name.chars().filter(|c| !c.is_control()).collect();
    format!("\"{}\"", kept.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_the_same_whenever_it_is_composed() {
        let compose = || compose(r#"{"name":"Ada Lovelace","email":"ada@example.com"}"#, "0190").unwrap();
        assert_eq!(compose(), compose());
        assert_eq!(compose().message_id, "<0190@welcome.example>");
        assert_eq!(compose().to, "\"Ada Lovelace\" <ada@example.com>");
        assert_eq!(compose().subject, "Welcome, Ada");
    }

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        let message = compose(r#"{"name":"a\" <x@y.z>, \"b\r\nBcc: c","email":"ada@example.com"}"#, "1").unwrap();
        assert_eq!(message.to, r#""a\" <x@y.z>, \"bBcc: c" <ada@example.com>"#);
    }

    #[test]
    fn a_payload_without_an_address_is_refused() {
        assert!(compose(r#"{"name":"Ada"}"#, "1").unwrap_err().contains("email"));
    }
}
