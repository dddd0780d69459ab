//! Interfaces of WASI that are not in WASI 0.2, in the drafts that are in use. They give a guest what those of `wit/` give.
//!
//! `wasi:config` reads the plugin's settings, and `wasi:logging` writes to its log. `wasi:keyvalue` is its state. There is one
//! bucket, `default`, which belongs to the plugin. As with `state`, writes take effect at the commit, and what the attempt
//! read must still be unchanged then. So a swap never fails; after a conflict the event is handled again.

use wasmtime::component::{HasSelf, Linker, Resource};

use self::wasi_logging::wasi::logging::logging::{self, Level};
use super::bindings::eventstream::plugin::config::Host as Config;
use super::bindings::eventstream::plugin::state::{Error as StateError, Host as State};
use super::guest::InstanceHost;
pub use super::guest::{StateBucket, SwapHandle};
use crate::event::{LogLevel, LogLine};

/// The names of the bucket. Spin calls it `default`; wasmCloud uses either name.
const BUCKETS: [&str; 2] = ["", "default"];
const NO_LISTING: &str = "keys cannot be listed; keep an index under a key of its own";

mod wasi_config {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/standards/config.wit",
        imports: { default: trappable },
    });
}

mod wasi_config_2024 {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/standards/config-2024.wit",
        imports: { default: trappable },
    });
}

mod wasi_logging {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/standards/logging.wit",
        imports: { default: trappable },
    });
}

mod keyvalue_draft {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/keyvalue/draft.wit",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::StateBucket },
    });
    pub(super) use self::wasi::keyvalue::{atomics, batch, store};
}

mod keyvalue_draft2 {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/keyvalue/draft2.wit",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::StateBucket, "wasi:keyvalue/atomics.cas": super::SwapHandle },
    });
    pub(super) use self::wasi::keyvalue::{atomics, batch, store};
}

/// Adds `wasi:config` and `wasi:logging` to a linker.
///
/// # Errors
/// The linker has one of them already.
pub(super) fn add_config_and_logging(linker: &mut Linker<InstanceHost>) -> wasmtime::Result<()> {
    wasi_config::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    wasi_config_2024::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    wasi_logging::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// Adds both drafts of `wasi:keyvalue` to a linker.
///
/// # Errors
/// The linker has one of them already.
pub(super) fn add_keyvalue(linker: &mut Linker<InstanceHost>) -> wasmtime::Result<()> {
    keyvalue_draft::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    keyvalue_draft2::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

/// The result of a function that may also end the attempt.
type Answer<T, E> = wasmtime::Result<Result<T, E>>;

/// Both versions of `wasi:config` are the same. Their generated types differ, so a macro writes them twice.
macro_rules! config_store {
    ($store:path, $error:ty) => {
        impl $store for InstanceHost {
            fn get(&mut self, key: String) -> Answer<Option<String>, $error> {
                Config::get(self, key).map(Ok)
            }

            fn get_all(&mut self) -> Answer<Vec<(String, String)>, $error> {
                Ok(Ok(self.context.config.clone().into_iter().collect()))
            }
        }
    };
}

config_store!(wasi_config::wasi::config::store::Host, wasi_config::wasi::config::store::Error);
config_store!(wasi_config_2024::wasi::config::store::Host, wasi_config_2024::wasi::config::store::Error);

impl logging::Host for InstanceHost {
    fn log(&mut self, level: Level, context: String, message: String) -> wasmtime::Result<()> {
        let level = match level {
            Level::Trace => LogLevel::Trace,
            Level::Debug => LogLevel::Debug,
            Level::Info => LogLevel::Info,
            Level::Warn => LogLevel::Warn,
            Level::Error | Level::Critical => LogLevel::Error,
        };
        self.output.charge(message.len() + context.len())?;
        let fields = if context.is_empty() { Vec::new() } else { vec![("context".to_owned(), context)] };
        self.output.log(LogLine { level, message, fields });
        Ok(())
    }
}

type Bucket = Resource<StateBucket>;

/// The parts that both drafts of `wasi:keyvalue` share. They differ in the types of a cursor and of a pair that was read.
macro_rules! keyvalue {
    ($draft:ident, $cursor:ty, $pair:ty, $to_pair:expr) => {
        impl From<StateError> for $draft::store::Error {
            fn from(error: StateError) -> Self {
                match error {
                    StateError::Denied(_) => Self::AccessDenied,
                    StateError::Invalid(words) | StateError::TooLarge(words) | StateError::Unavailable(words) => {
                        Self::Other(words)
                    }
                }
            }
        }

        impl $draft::store::Host for InstanceHost {
            async fn open(&mut self, identifier: String) -> Answer<Bucket, $draft::store::Error> {
                self.output.charge(identifier.len())?;
                match BUCKETS.contains(&identifier.as_str()) {
                    true => Ok(Ok(self.table.push(StateBucket)?)),
                    false => Ok(Err($draft::store::Error::NoSuchStore)),
                }
            }
        }

        impl $draft::store::HostBucket for InstanceHost {
            async fn get(&mut self, _: Bucket, key: String) -> Answer<Option<Vec<u8>>, $draft::store::Error> {
                Ok(State::get(self, key).await?.map_err(Into::into))
            }

            async fn set(&mut self, _: Bucket, key: String, value: Vec<u8>) -> Answer<(), $draft::store::Error> {
                Ok(State::set(self, key, value, None).await?.map_err(Into::into))
            }

            async fn delete(&mut self, _: Bucket, key: String) -> Answer<(), $draft::store::Error> {
                Ok(State::delete(self, key).await?.map_err(Into::into))
            }

            async fn exists(&mut self, _: Bucket, key: String) -> Answer<bool, $draft::store::Error> {
                Ok(State::get(self, key).await?.map(|value| value.is_some()).map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                _: Bucket,
                _: Option<$cursor>,
            ) -> Answer<$draft::store::KeyResponse, $draft::store::Error> {
                Ok(Err($draft::store::Error::Other(NO_LISTING.into())))
            }

            async fn drop(&mut self, bucket: Bucket) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $draft::batch::Host for InstanceHost {
            async fn get_many(&mut self, _: Bucket, keys: Vec<String>) -> Answer<Vec<$pair>, $draft::store::Error> {
                let mut all = Vec::new();
                for key in keys {
                    match State::get(self, key.clone()).await? {
                        Ok(value) => all.push($to_pair(key, value)),
                        Err(error) => return Ok(Err(error.into())),
                    }
                }
                Ok(Ok(all))
            }

            async fn set_many(&mut self, _: Bucket, pairs: Vec<(String, Vec<u8>)>) -> Answer<(), $draft::store::Error> {
                for (key, value) in pairs {
                    if let Err(error) = State::set(self, key, value, None).await? {
                        return Ok(Err(error.into()));
                    }
                }
                Ok(Ok(()))
            }

            async fn delete_many(&mut self, _: Bucket, keys: Vec<String>) -> Answer<(), $draft::store::Error> {
                for key in keys {
                    if let Err(error) = State::delete(self, key).await? {
                        return Ok(Err(error.into()));
                    }
                }
                Ok(Ok(()))
            }
        }
    };
}

keyvalue!(keyvalue_draft, u64, Option<(String, Vec<u8>)>, |key, value: Option<_>| value.map(|value| (key, value)));
keyvalue!(keyvalue_draft2, String, (String, Option<Vec<u8>>), |key, value| (key, value));

impl keyvalue_draft::atomics::Host for InstanceHost {
    async fn increment(&mut self, _: Bucket, key: String, delta: u64) -> Answer<u64, keyvalue_draft::store::Error> {
        let out_of_range = || keyvalue_draft::store::Error::Other("a counter of this interface is not negative".into());
        let Ok(delta) = i64::try_from(delta) else { return Ok(Err(out_of_range())) };
        let sum = State::increment(self, key, delta).await?;
        Ok(sum.map_err(Into::into).and_then(|sum| u64::try_from(sum).map_err(|_| out_of_range())))
    }
}

impl keyvalue_draft2::atomics::Host for InstanceHost {
    async fn increment(&mut self, _: Bucket, key: String, delta: i64) -> Answer<i64, keyvalue_draft2::store::Error> {
        Ok(State::increment(self, key, delta).await?.map_err(Into::into))
    }

    async fn swap(
        &mut self,
        swap: Resource<SwapHandle>,
        value: Vec<u8>,
    ) -> Answer<(), keyvalue_draft2::atomics::CasError> {
        let SwapHandle { state_key, .. } = self.table.delete(swap)?;
        let set = State::set(self, state_key, value, None).await?;
        Ok(set.map_err(|error| keyvalue_draft2::atomics::CasError::StoreError(error.into())))
    }
}

impl keyvalue_draft2::atomics::HostCas for InstanceHost {
    async fn new(&mut self, _: Bucket, key: String) -> Answer<Resource<SwapHandle>, keyvalue_draft2::store::Error> {
        match State::get(self, key.clone()).await? {
            Ok(seen) => Ok(Ok(self.table.push(SwapHandle { state_key: key, seen })?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn current(&mut self, swap: Resource<SwapHandle>) -> Answer<Option<Vec<u8>>, keyvalue_draft2::store::Error> {
        Ok(Ok(self.table.get(&swap)?.seen.clone()))
    }

    async fn drop(&mut self, swap: Resource<SwapHandle>) -> wasmtime::Result<()> {
        self.table.delete(swap)?;
        Ok(())
    }
}
