//! What a sign-up must say, and how it is written afterwards.
//!
//! A user is known by an `email`, a `userId`, or both. Other members of the payload are kept as they came.

use serde_json::{Map, Value};

const MAX_NAME_CHARS: usize = 100;
const MAX_EMAIL_CHARS: usize = 254;
const MAX_USER_ID_CHARS: usize = 128;

/// A user as the rest of the system is to know them.
#[derive(Debug, PartialEq)]
pub struct User {
    /// Where the user can be welcomed; `None` for one who is known by a `userId` only.
    pub contact: Option<Contact>,
    /// The whole payload, with the name and the address as in the contact.
    pub members: Map<String, Value>,
}

/// A user who has an address.
#[derive(Debug, PartialEq)]
pub struct Contact {
    /// The name, or the part of the address before the `@` when none was given.
    pub name: String,
    /// The address, its domain in lower case.
    pub email: String,
}

/// Reads and normalizes a payload.
///
/// # Errors
/// Everything that is wrong with it, in words for the sender. The same payload is wrong the next time as well.
pub fn read(payload: &str) -> Result<User, String> {
    let mut members: Map<String, Value> = serde_json::from_str(payload)
        .map_err(|error| format!("the payload must be an object with an \"email\" or a \"userId\": {error}"))?;
    let mut faults = Vec::new();

    let has_id = match members.get("userId") {
        Some(Value::String(id)) if (1..=MAX_USER_ID_CHARS).contains(&id.trim().chars().count()) => true,
        Some(Value::Number(_)) => true,
        Some(_) => {
            faults.push(format!("\"userId\" must be a number or 1 to {MAX_USER_ID_CHARS} characters"));
            true
        }
        None => false,
    };
    let email = match members.get("email") {
        Some(Value::String(email)) => normalize_email(email).map_err(|fault| faults.push(fault)).ok(),
        Some(_) => {
            faults.push("\"email\" must be a string".to_owned());
            None
        }
        None => {
            if !has_id {
                faults.push("\"email\" is missing, and there is no \"userId\" either".to_owned());
            }
            None
        }
    };
    let name = match members.get("name") {
        Some(Value::String(name)) => normalize_name(name).map_err(|fault| faults.push(fault)).ok(),
        Some(_) => {
            faults.push("\"name\" must be a string".to_owned());
            None
        }
        None => email.as_deref().and_then(|email| email.split('@').next()).map(str::to_owned),
    };

    if !faults.is_empty() {
        return Err(faults.join("; "));
    }
    for (member, value) in [("name", &name), ("email", &email)] {
        if let Some(value) = value {
            members.insert(member.into(), value.clone().into());
        }
    }
    let contact = name.zip(email).map(|(name, email)| Contact { name, email });
    Ok(User { contact, members })
}

fn normalize_name(name: &str) -> Result<String, String> {
    let name = name.split_whitespace().collect::<Vec<_>>().join(" ");
    if name.is_empty() || name.chars().count() > MAX_NAME_CHARS || name.chars().any(char::is_control) {
        return Err(format!("\"name\" must be 1 to {MAX_NAME_CHARS} characters"));
    }
    Ok(name)
}

/// The local part is left alone, since its case belongs to the receiving server; a domain has none.
fn normalize_email(email: &str) -> Result<String, String> {
    let email = email.trim();
    let wrong = |why: &str| Err(format!("\"email\" {why}: {email:?}"));
    if email.chars().count() > MAX_EMAIL_CHARS {
        return Err(format!("\"email\" must be at most {MAX_EMAIL_CHARS} characters"));
    }
    let Some((local, domain)) = email.rsplit_once('@') else { return wrong("needs an @") };
    if local.is_empty() || local.contains(|c: char| c.is_whitespace() || c.is_control() || c == '@') {
        return wrong("needs a name without spaces before the @");
    }
    let fits = |label: &str| !label.is_empty() && label.chars().all(|c| c.is_alphanumeric() || c == '-');
    if !domain.contains('.') || !domain.split('.').all(fits) {
        return wrong("needs a domain such as example.com after the @");
    }
    Ok(format!("{local}@{}", domain.to_lowercase()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_normalized_and_the_rest_is_kept() {
        let user =
            read(r#"{"id":12345678901234567890.10,"email":" Ada@Example.COM ","name":" Ada\t Lovelace"}"#).unwrap();
        let contact = user.contact.unwrap();
        assert_eq!((contact.name.as_str(), contact.email.as_str()), ("Ada Lovelace", "Ada@example.com"));
        assert_eq!(
            serde_json::to_string(&user.members).unwrap(),
            r#"{"id":12345678901234567890.10,"email":"Ada@example.com","name":"Ada Lovelace"}"#
        );
    }

    #[test]
    fn a_user_without_a_name_is_called_by_the_address() {
        assert_eq!(read(r#"{"email":"ada@example.com"}"#).unwrap().contact.unwrap().name, "ada");
    }

    #[test]
    fn a_user_may_be_known_by_an_id_alone() {
        for payload in [r#"{"userId":"123"}"#, r#"{"userId":123}"#, r#"{"userId":"123","name":"Ada"}"#] {
            let user = read(payload).unwrap();
            assert_eq!((user.contact, serde_json::to_string(&user.members).unwrap().as_str()), (None, payload));
        }
    }

    #[test]
    fn all_that_is_wrong_is_said_at_once() {
        for (payload, words) in [
            ("[]", vec!["must be an object"]),
            ("{}", vec!["\"email\" is missing"]),
            (r#"{"userId":" "}"#, vec!["\"userId\" must be a number or 1 to 128 characters"]),
            (r#"{"userId":"123","email":"ada"}"#, vec!["needs an @"]),
            (r#"{"email":1,"name":2}"#, vec!["\"email\" must be a string", "\"name\" must be a string"]),
            (r#"{"email":"ada","name":" "}"#, vec!["needs an @", "1 to 100 characters"]),
            (r#"{"email":"a b@example.com"}"#, vec!["before the @"]),
            (r#"{"email":"ada@localhost"}"#, vec!["after the @"]),
            (r#"{"email":"ada@example..com"}"#, vec!["after the @"]),
        ] {
            let message = read(payload).unwrap_err();
            for word in words {
                assert!(message.contains(word), "{payload}: {message}");
            }
        }
    }
}
