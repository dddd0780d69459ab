//! `state`: linked for every plugin and granted to none; each call says so.

use super::Guest;
use super::wit::state::{Error, Host};

type Answer<T> = wasmtime::Result<Result<T, Error>>;

fn denied<T>() -> Answer<T> {
    Ok(Err(Error::Denied("state is not granted: this server keeps no state for plugins".into())))
}

impl Host for Guest {
    fn get(&mut self, _key: String) -> Answer<Option<Vec<u8>>> {
        denied()
    }

    fn set(&mut self, _key: String, _value: Vec<u8>, _ttl_ms: Option<u64>) -> Answer<()> {
        denied()
    }

    fn delete(&mut self, _key: String) -> Answer<()> {
        denied()
    }

    fn increment(&mut self, _key: String, _delta: i64) -> Answer<i64> {
        denied()
    }
}
