//! `GET` and `POST /keys`, `DELETE /keys/{id}`, `POST /keys/{id}/rotate`, and `GET /whoami`.
//!
//! A key makes and changes only keys that allow no more than itself. A store holds at most a thousand keys, so the list has
//! no pages.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::http::header::{HeaderValue, LOCATION};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json as object};

use super::api_state::ApiState;
use super::author::ChangeAuthor;
use super::caller::Caller;
use super::key_view::{CallerView, KeyView, NewKeyView};
use super::problem::{Problem, ProblemKind};
use super::query;
use super::request::PathParameter;
use super::response::json;
use crate::api_key::{ApiKey, KeyId, KeyRights, KeyToken, MAX_KEY_TYPES, Scope, ScopeSet, is_key_name};
use crate::broker::{self, AuditAction, AuditNote, KeySet, KeyWrite, KeyWriteOutcome, MAX_STORED_KEYS, StoredKey};
use crate::clock;
use crate::event::{EventFault, Timestamp};

/// How often a change is tried again because somebody else changed the same key.
const MAX_TRIES: usize = 5;
/// How long the earlier secret of a rotated key stays valid, unless the request says so.
const DEFAULT_OVERLAP: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest overlap and the longest life of a key.
const MAX_DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Shows every key, without secrets.
pub(super) async fn list(State(api): State<Arc<ApiState>>, RawQuery(query): RawQuery) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let (set, now) = (read_all(&api).await?, clock::now());
    let view = |stored: &StoredKey| {
        let last_used_at = stored.last_used_at.max(api.keys.last_use_here(&stored.key.id));
        object!(KeyView::of_stored(&stored.key, last_used_at, now))
    };
    let configured = api.keys.configured.iter().map(|key| object!(KeyView::of_configured(key, now)));
    let keys: Vec<Value> = configured.chain(set.keys.iter().map(view)).collect();
    let mut document = object!({ "keys": keys });
    if !set.unreadable.is_empty() {
        document["unreadable"] = object!(set.unreadable);
    }
    Ok(json(StatusCode::OK, &document))
}

/// Makes a key and shows its text, once.
pub(super) async fn create(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let now = clock::now();
    let (name, rights) = parse_new_key(&body, now)?;
    if let Some(excess) = caller.rights().excess_of(&rights) {
        return Err(Problem::not_permitted(format!("a key makes only lesser keys: {excess}"), None));
    }
    if !api.keys.are_needed() && !rights.scopes.has(Scope::Keys) {
        let detail =
            "from the first key on, everybody needs one: make a key with the scope keys first, which makes the others";
        return Err(Problem::new(ProblemKind::InvalidKey, detail));
    }
    let token = new_token(KeyId::from_random(random()?))?;
    let key = ApiKey::new(&token, name, rights, now, caller.maker());
    let audit = note_key(&author, AuditAction::CreateKey, &key);
    let mut deletes = None;
    for _ in 0..MAX_TRIES {
        let write = KeyWrite { key: key.clone(), replaces: None, deletes: deletes.take() };
        match api.keys.store.write_key(write, Some(&audit)).await.map_err(write_refusal)? {
            KeyWriteOutcome::Done => {
                refresh(&api).await;
                let mut response = show_new(StatusCode::CREATED, &token, &key, now);
                if let Ok(location) = HeaderValue::from_str(&format!("/keys/{}", key.id)) {
                    response.headers_mut().insert(LOCATION, location);
                }
                return Ok(response);
            }
            KeyWriteOutcome::Full => deletes = Some(longest_ended(read_all(&api).await?, now)?),
            KeyWriteOutcome::Changed => {}
        }
    }
    Err(busy())
}

/// Gives a key a new secret and shows the whole text, once. The earlier secret stays valid for the overlap.
pub(super) async fn rotate(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    Extension(caller): Extension<Caller>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    let overlap = parse_overlap(&body)?;
    let overlap_ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
    let token = new_token(parse_id(&api, &id)?)?;
    let now = clock::now();
    let by = (&caller, &author, AuditAction::RotateKey, None);
    let key = change(&api, by, &token.id(), |key| {
        key.rotated(&token, overlap_ms, now)
            .map_err(|error| Problem::new(ProblemKind::KeyNotChanged, error.to_string()))
    })
    .await?;
    Ok(show_new(StatusCode::OK, &token, &key, now))
}

/// Ends a key for good. It stays in the list.
pub(super) async fn revoke(
    State(api): State<Arc<ApiState>>,
    Extension(author): Extension<ChangeAuthor>,
    Extension(caller): Extension<Caller>,
    PathParameter(id): PathParameter,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let (_, reason) = query::parse_removal(query.as_deref(), None)?;
    let (id, now) = (parse_id(&api, &id)?, clock::now());
    let by = (&caller, &author, AuditAction::RevokeKey, reason);
    let key = change(&api, by, &id, |key| Ok(key.revoked(now))).await?;
    Ok(json(StatusCode::OK, &KeyView::of_stored(&key, api.keys.last_use_here(&id), now)))
}

/// Shows who asks, and what they may do.
pub(super) async fn show_caller(
    Extension(caller): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    query::refuse_parameters(query.as_deref())?;
    Ok(json(StatusCode::OK, &CallerView::new(&caller, &caller.rights())))
}

/// Changes a key that allows no more than the caller may.
async fn change(
    api: &ApiState,
    (caller, author, action, reason): (&Caller, &ChangeAuthor, AuditAction, Option<String>),
    id: &KeyId,
    change: impl Fn(ApiKey) -> Result<ApiKey, Problem>,
) -> Result<ApiKey, Problem> {
    for _ in 0..MAX_TRIES {
        let set = read_all(api).await?;
        let found = set.keys.into_iter().find(|stored| stored.key.id == *id);
        let StoredKey { key, revision, .. } = found.ok_or_else(|| unknown_key(id.as_str()))?;
        if let Some(excess) = caller.rights().excess_of(&key.rights) {
            return Err(Problem::not_permitted(format!("a key changes only lesser keys: {excess}"), None));
        }
        let changed = change(key.clone())?;
        if changed == key {
            return Ok(key);
        }
        let write = KeyWrite { key: changed.clone(), replaces: Some(revision), deletes: None };
        let audit = note_key(author, action, &changed).because(reason.clone());
        if api.keys.store.write_key(write, Some(&audit)).await.map_err(write_refusal)? == KeyWriteOutcome::Done {
            refresh(api).await;
            return Ok(changed);
        }
    }
    Err(busy())
}

/// A note about a key.
fn note_key(author: &ChangeAuthor, action: AuditAction, key: &ApiKey) -> AuditNote {
    AuditNote { detail: Some(key.summary()), ..author.note(action, &key.id) }
}

async fn read_all(api: &ApiState) -> Result<KeySet, Problem> {
    let set = api.keys.store.read_keys(None).await?;
    set.ok_or_else(|| Problem::new(ProblemKind::Internal, "the store returned no keys"))
}

/// Reads the keys again after a change. If that fails, the change is stored all the same and is read within a second.
async fn refresh(api: &ApiState) {
    if let Err(error) = api.keys.refresh().await {
        tracing::warn!("the keys cannot be read after a change: {error}");
    }
}

/// The key that ended first, to make room for another.
fn longest_ended(set: KeySet, now: Timestamp) -> Result<(KeyId, u64), Problem> {
    let ended = set.keys.into_iter().filter_map(|stored| Some((stored.key.ended_at(now)?, stored)));
    let first = ended.min_by_key(|(ended_at, _)| *ended_at).map(|(_, stored)| (stored.key.id, stored.revision));
    first.ok_or_else(|| {
        let detail = format!("the store holds {MAX_STORED_KEYS} keys, and all of them are valid: revoke some first");
        Problem::new(ProblemKind::TooManyKeys, detail)
    })
}

fn show_new(status: StatusCode, token: &KeyToken, key: &ApiKey, now: Timestamp) -> Response {
    json(status, &NewKeyView { key: token.expose(), view: KeyView::of_stored(key, None, now) })
}

fn parse_id(api: &ApiState, text: &str) -> Result<KeyId, Problem> {
    if api.keys.configured.iter().any(|key| key.name == text) {
        let detail =
            format!("the key {text} is in the configuration (auth.keys): change it there and restart the server");
        return Err(Problem::new(ProblemKind::KeyNotChanged, detail));
    }
    text.parse().map_err(|_| unknown_key(text))
}

fn unknown_key(id: &str) -> Problem {
    // The text may be a key in the wrong place, so only what has the form of an id is repeated.
    let shown = id.parse::<KeyId>().map(|id| format!("there is no key {id}"));
    let detail = shown.unwrap_or_else(|_| "this is not the id of a key, which has ten letters and digits".into());
    Problem::new(ProblemKind::NotFound, format!("{detail}; GET /keys lists them"))
}

fn busy() -> Problem {
    Problem::new(ProblemKind::StoreBusy, "others change the same keys at the moment: try again")
}

/// The refusal of a write. If nobody knows its outcome, the client must not repeat it blindly.
fn write_refusal(error: broker::Error) -> Problem {
    match error {
        broker::Error::Unavailable { reason, outcome_known: false } => Problem::outcome_unknown(format!(
            "{reason}; the change may have taken effect: list the keys first, and revoke a new one whose text you did not get"
        )),
        error => error.into(),
    }
}

fn new_token(id: KeyId) -> Result<KeyToken, Problem> {
    Ok(KeyToken::from_random(&id, random()?))
}

fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!("the system gives no random bytes: {error}");
        Problem::new(ProblemKind::Internal, "the system gives no random bytes")
    })?;
    Ok(bytes)
}

/// Reads the description of a new key.
///
/// # Errors
/// [`ProblemKind::InvalidKey`] with each fault.
fn parse_new_key(body: &Bytes, now: Timestamp) -> Result<(String, KeyRights), Problem> {
    let members = parse_object(body)?;
    let mut faults = Vec::new();
    let (mut name, mut rights) = (None, KeyRights { scopes: ScopeSet::NONE, ..KeyRights::all() });
    for (member, value) in &members {
        let read: Result<(), String> = match member.as_str() {
            "name" => match value.as_str().filter(|name| is_key_name(name)) {
                Some(text) => {
                    name = Some(text.to_owned());
                    Ok(())
                }
                None => Err("a name has 1 to 64 letters, digits and ._@-".into()),
            },
            "scopes" => serde_json::from_value(value.clone())
                .map(|scopes| rights.scopes = scopes)
                .map_err(|_| "the scopes are a list of publish, read, operate, deploy and keys".into()),
            "types" => serde_json::from_value(value.clone())
                .map(|types| rights.types = types)
                .map_err(|_| r#"the types are a list such as ["order.*", "USER_SIGNUP"]"#.into()),
            "rate" => {
                read_text(value, |text| text.parse().map(|rate| rights.rate = Some(rate)).map_err(|it| it.to_string()))
            }
            "expiresIn" => read_text(value, |text| {
                let life = parse_duration(text)?;
                let ms = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
                rights.expires_at = Some(now.plus_ms(ms));
                if life.is_zero() { Err("a key must live longer than that".into()) } else { Ok(()) }
            }),
            _ => Err("a key has the members name, scopes, types, rate and expiresIn".into()),
        };
        faults.extend(read.err().map(|message| EventFault::new(format!("/{member}"), message)));
    }
    if !members.contains_key("name") {
        faults.push(EventFault::new("/name", "say whose key it is"));
    }
    if members.get("scopes").is_none_or(|scopes| scopes.as_array().is_some_and(Vec::is_empty)) {
        faults.push(EventFault::new("/scopes", "say what it allows: publish, read, operate, deploy, keys"));
    }
    if rights.types.len() > MAX_KEY_TYPES {
        faults.push(EventFault::new("/types", format!("a key has at most {MAX_KEY_TYPES} types")));
    }
    match name.filter(|_| faults.is_empty()) {
        Some(name) => Ok((name, rights)),
        None => Err(Problem::new(ProblemKind::InvalidKey, "no key was made").with_errors(faults)),
    }
}

/// Reads the body of a rotation: nothing, or `{"overlap":"24h"}`.
fn parse_overlap(body: &Bytes) -> Result<Duration, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(DEFAULT_OVERLAP);
    }
    let mut overlap = DEFAULT_OVERLAP;
    let mut faults = Vec::new();
    for (member, value) in parse_object(body)? {
        let read = match member.as_str() {
            "overlap" => read_text(&value, |text| parse_duration(text).map(|it| overlap = it)),
            _ => Err("a rotation has the member overlap only".into()),
        };
        faults.extend(read.err().map(|message| EventFault::new(format!("/{member}"), message)));
    }
    if faults.is_empty() {
        return Ok(overlap);
    }
    Err(Problem::new(ProblemKind::InvalidKey, "the key was not changed").with_errors(faults))
}

fn parse_object(body: &Bytes) -> Result<Map<String, Value>, Problem> {
    serde_json::from_slice(body).map_err(|_| {
        let detail = r#"the body must be a JSON object such as {"name":"ada","scopes":["publish"]}"#;
        Problem::new(ProblemKind::MalformedBody, detail)
    })
}

fn read_text(value: &Value, read: impl FnOnce(&str) -> Result<(), String>) -> Result<(), String> {
    value.as_str().ok_or_else(|| "must be a text".to_owned()).and_then(read)
}

/// Reads a length of time as people write it.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).ok().filter(|duration| *duration <= MAX_DURATION);
    duration.ok_or_else(|| {
        "a duration is a number with its unit, such as \"30m\", \"24h\" or \"90d\", at most ten years".into()
    })
}
