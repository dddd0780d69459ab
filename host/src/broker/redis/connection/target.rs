//! What a link connects to, and how its errors read.

use redis::{ErrorKind, RedisError};

use super::fault::{FailureCause, classify};
use crate::broker::redis::scripts::ScriptCall;
use crate::secret::SecretText;

/// Where a server that does not know a command begins to quote its arguments.
const ARGUMENTS: &str = ", with args beginning with";
/// A shorter password would also match ordinary words.
const MIN_PASSWORD_BYTES: usize = 4;

/// What a link connects to.
pub(in crate::broker::redis) struct LinkTarget {
    /// Host and port or the path of a socket, without the password.
    pub(in crate::broker::redis) address: String,
    /// The beginning of a command line that reaches the server, without the password.
    pub(in crate::broker::redis) cli: String,
    pub(in crate::broker::redis) password: Option<SecretText>,
    pub(in crate::broker::redis) namespace: String,
}

impl LinkTarget {
    /// The message of the server or of the connection, with what an operator can do about a missing right. `call` is the
    /// script that failed.
    pub(super) fn describe(&self, error: &RedisError, call: Option<&ScriptCall<'_>>) -> String {
        let LinkTarget { address, namespace, .. } = self;
        let detail = error.detail().unwrap_or_default();
        let enough = || {
            format!(
                "the rights that are enough: ~{{{namespace}:*}}:* +@read +@write +@scripting +@connection +time +info \
                 +config|get +bgrewriteaof"
            )
        };
        self.without_password(match (error.code(), error.detail()) {
            _ if error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("WRONGPASS") => {
                format!("Redis at {address} wants another user or password than those in broker.url")
            }
            (Some("NOAUTH"), _) => {
                format!("Redis at {address} wants a password: write it in broker.url as redis://:PASSWORD@HOST:PORT")
            }
            (Some("NOPERM"), _) => format!("NOPERM {detail}; {}", enough()),
            _ if classify(error).cause == FailureCause::Denied => {
                let command = call.and_then(|call| call.command_in_line(script_line(detail)?));
                let command = command.map(|command| format!(" ({command})")).unwrap_or_default();
                format!("{detail}{command}; {}", enough())
            }
            (Some("ERR"), Some(detail)) => detail.to_owned(),
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            (Some(code), None) => code.to_owned(),
            (None, _) => format!("the connection to Redis failed: {error}"),
        })
    }

    /// Removes the password: a server that does not know `AUTH` quotes the arguments of the command.
    pub(super) fn without_password(&self, message: String) -> String {
        let unquoted = message.split_once(ARGUMENTS).map_or(message.as_str(), |(before, _)| before);
        match self.password.as_ref().map(SecretText::expose).filter(|password| password.len() >= MIN_PASSWORD_BYTES) {
            Some(password) => unquoted.replace(password, "***"),
            None => unquoted.to_owned(),
        }
    }
}

/// The beginning of the message that no connection could be made.
pub(in crate::broker::redis) fn unreachable(address: &str) -> String {
    format!("Redis at {address} cannot be reached: ")
}

/// The line of a script that an error names at its end: `… on @user_script:12.`
fn script_line(detail: &str) -> Option<usize> {
    let (_, number) = detail.rsplit_once("@user_script:")?;
    number.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_that_repeats_the_password_is_masked() {
        let target = LinkTarget {
            address: "h:1".into(),
            cli: "redis-cli".into(),
            password: Some("hunter2".into()),
            namespace: "es".into(),
        };
        for message in [
            "unknown command 'AUTH', with args beginning with: 'hunter2' ",
            "unknown command 'AUTH', with args beginning with: 'hunt",
            "500 unrecognized command AUTH hunter2",
        ] {
            let masked = target.without_password(message.into());
            assert!(masked.contains("AUTH") && !masked.contains("hunt"), "{masked}");
        }
    }
}
