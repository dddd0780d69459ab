//! The keys at the start of a server, and the first key of a deployment.
//!
//! A server that others can reach does not start without a key, unless everybody may publish and read.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;

use super::error::Error;
use super::store::{close_broker, open_broker};
use crate::api::KeyRing;
use crate::api_key::{ApiKey, KeyId, KeyRights, KeyToken};
use crate::broker::{self, AuditAction, AuditNote, Broker, KeyStore, KeyWrite, KeyWriteOutcome, MAX_STORED_KEYS};
use crate::clock;
use crate::config::Config;
use crate::shutdown::TaskGroup;

/// What a server does that needs a key and finds none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FirstKey {
    /// It makes one with all scopes and announces it: a person reads what it prints, and no log does.
    Announce,
    /// It does not start.
    Refuse,
}

/// Who made a key that was written to the store without a server.
const MAKER: &str = "command-line";

/// Reads the keys for a server. Also says whether the server must make the first one before it answers.
///
/// # Errors
/// [`Error::Refused`] if the server needs a key and there is none; [`Error::Unreachable`] if the store cannot be read.
pub(super) async fn open_keys(
    config: &Config,
    broker: &Arc<dyn Broker>,
    first_key: FirstKey,
) -> Result<(Arc<KeyRing>, bool), Error> {
    let listen = config.server.listen;
    let is_exposed = !listen.ip().to_canonical().is_loopback() && !config.server.allow_anonymous;
    let keys = Arc::new(KeyRing::new(broker.clone(), broker.clone(), config.keys.clone(), is_exposed));
    keys.refresh().await.map_err(unreadable)?;
    if !is_exposed || keys.has_keys() {
        return Ok((keys, false));
    }
    if first_key == FirstKey::Refuse {
        return Err(Error::Refused(format!(
            "on {listen} others reach this server, and there is no key: make one with `eventstream key new admin --scopes all \
             --broker URL`, or let everybody publish and read events with --allow-anonymous (auth.allow_anonymous = true)"
        )));
    }
    Ok((keys, true))
}

/// Makes the first key of a deployment.
pub(super) async fn make_first_key(broker: &Arc<dyn Broker>, keys: &KeyRing) -> Result<KeyToken, Error> {
    let token = write_new_key(&**broker, "first".into(), KeyRights::all()).await?;
    keys.refresh().await.map_err(unreadable)?;
    Ok(token)
}

/// Makes a key in a store that no server has to be running on, and lets it end after `life`. An embedded store must not be in
/// use.
///
/// # Errors
/// Those of opening the store; [`Error::Failed`] if it is not certain that the key was written.
pub async fn make_key(
    config: &Config,
    name: String,
    rights: KeyRights,
    life: Option<Duration>,
) -> Result<KeyToken, Error> {
    let life_ms = life.map(|life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX));
    let rights = KeyRights { expires_at: life_ms.map(|life_ms| clock::now().plus_ms(life_ms)), ..rights };
    let tasks = TaskGroup::new();
    let broker = open_broker(config, &tasks).await?;
    let made = write_new_key(&*broker, name, rights).await;
    if !close_broker(broker.as_ref()).await {
        tracing::debug!("the broker did not close in time; other hosts forget this consumer when its lease ends");
    }
    drop(broker);
    tasks.stop_token().cancel();
    tasks.ended().await;
    made
}

/// Makes the text of a key that no store knows, for `[[auth.keys]]`.
///
/// # Errors
/// The system gives no random bytes.
pub fn new_key_token() -> Result<KeyToken, Error> {
    let (mut id, mut secret) = ([0; 16], [0; 32]);
    let filled = getrandom::fill(&mut id).and_then(|()| getrandom::fill(&mut secret));
    filled.map_err(|error| Error::Failed(anyhow!("the system gives no random bytes: {error}")))?;
    Ok(KeyToken::from_random(&KeyId::from_random(id), secret))
}

async fn write_new_key(store: &(impl KeyStore + ?Sized), name: String, rights: KeyRights) -> Result<KeyToken, Error> {
    let token = new_key_token()?;
    let key = ApiKey::new(&token, name, rights, clock::now(), MAKER.into());
    let audit =
        AuditNote { detail: Some(key.summary()), ..AuditNote::new(AuditAction::CreateKey, MAKER, key.id.to_string()) };
    let written = store.write_key(KeyWrite { key, replaces: None, deletes: None }, Some(&audit)).await;
    match written.map_err(|error| Error::Failed(anyhow!("the key was not made for certain: {error}")))? {
        KeyWriteOutcome::Done => Ok(token),
        KeyWriteOutcome::Changed => Err(Error::Failed(anyhow!("the key was not made: try again"))),
        KeyWriteOutcome::Full => {
            let reason = format!(
                "the store holds {MAX_STORED_KEYS} keys: make the key on a running server, which forgets ended ones"
            );
            Err(Error::Refused(reason))
        }
    }
}

fn unreadable(error: broker::Error) -> Error {
    Error::Unreachable(format!("the keys cannot be read from the store: {error}"))
}
