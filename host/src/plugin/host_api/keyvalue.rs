//! `wasi:keyvalue` in the two drafts that are in use: another interface to the plugin's state.
//!
//! There is one bucket, `default`, which belongs to the plugin. As with `state`, writes take effect at the commit, and what
//! the attempt read must still be unchanged then. So a swap never fails; after a conflict the event is handled again.

use wasmtime::component::{HasSelf, Linker, Resource};

use super::bindings::eventstream::plugin::state::{Error as StateError, Host as State};
use super::guest::GuestState;
pub use super::handles::{StateBucket, SwapHandle};

/// The names of the bucket. Spin calls it `default`; wasmCloud uses either name.
const BUCKETS: [&str; 2] = ["", "default"];
const NO_LISTING: &str = "keys cannot be listed; keep an index under a key of its own";

mod draft {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/keyvalue/draft.wit",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::StateBucket },
    });

    pub(super) type Got = Option<(String, Vec<u8>)>;

    pub(super) fn got(key: String, value: Option<Vec<u8>>) -> Got {
        value.map(|value| (key, value))
    }
}

mod draft2 {
    wasmtime::component::bindgen!({
        path: "src/plugin/host_api/keyvalue/draft2.wit",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::StateBucket, "wasi:keyvalue/atomics.cas": super::SwapHandle },
    });

    pub(super) type Got = (String, Option<Vec<u8>>);

    pub(super) fn got(key: String, value: Option<Vec<u8>>) -> Got {
        (key, value)
    }
}

/// Adds both drafts to a linker.
///
/// # Errors
/// The linker has one of them already.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    draft::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    draft2::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

type KeyvalueResult<T, E> = wasmtime::Result<Result<T, E>>;

/// The parts that both drafts share. Their generated types differ, so a macro writes them twice.
macro_rules! draft {
    ($draft:ident, $cursor:ty) => {
        impl From<StateError> for $draft::wasi::keyvalue::store::Error {
            fn from(error: StateError) -> Self {
                match error {
                    StateError::Denied(_) => Self::AccessDenied,
                    StateError::Invalid(words) | StateError::TooLarge(words) | StateError::Unavailable(words) => {
                        Self::Other(words)
                    }
                }
            }
        }

        impl $draft::wasi::keyvalue::store::Host for GuestState {
            async fn open(
                &mut self,
                identifier: String,
            ) -> KeyvalueResult<Resource<StateBucket>, $draft::wasi::keyvalue::store::Error> {
                self.output.charge(identifier.len())?;
                match BUCKETS.contains(&identifier.as_str()) {
                    true => Ok(Ok(self.table.push(StateBucket)?)),
                    false => Ok(Err($draft::wasi::keyvalue::store::Error::NoSuchStore)),
                }
            }
        }

        impl $draft::wasi::keyvalue::store::HostBucket for GuestState {
            async fn get(
                &mut self,
                _: Resource<StateBucket>,
                key: String,
            ) -> KeyvalueResult<Option<Vec<u8>>, $draft::wasi::keyvalue::store::Error> {
                Ok(State::get(self, key).await?.map_err(Into::into))
            }

            async fn set(
                &mut self,
                _: Resource<StateBucket>,
                key: String,
                value: Vec<u8>,
            ) -> KeyvalueResult<(), $draft::wasi::keyvalue::store::Error> {
                Ok(State::set(self, key, value, None).await?.map_err(Into::into))
            }

            async fn delete(
                &mut self,
                _: Resource<StateBucket>,
                key: String,
            ) -> KeyvalueResult<(), $draft::wasi::keyvalue::store::Error> {
                Ok(State::delete(self, key).await?.map_err(Into::into))
            }

            async fn exists(
                &mut self,
                _: Resource<StateBucket>,
                key: String,
            ) -> KeyvalueResult<bool, $draft::wasi::keyvalue::store::Error> {
                Ok(State::get(self, key).await?.map(|value| value.is_some()).map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                _: Resource<StateBucket>,
                _: Option<$cursor>,
            ) -> KeyvalueResult<$draft::wasi::keyvalue::store::KeyResponse, $draft::wasi::keyvalue::store::Error> {
                Ok(Err($draft::wasi::keyvalue::store::Error::Other(NO_LISTING.into())))
            }

            async fn drop(&mut self, bucket: Resource<StateBucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $draft::wasi::keyvalue::batch::Host for GuestState {
            async fn get_many(
                &mut self,
                _: Resource<StateBucket>,
                keys: Vec<String>,
            ) -> KeyvalueResult<Vec<$draft::Got>, $draft::wasi::keyvalue::store::Error> {
                let mut all = Vec::new();
                for key in keys {
                    match State::get(self, key.clone()).await? {
                        Ok(value) => all.push($draft::got(key, value)),
                        Err(error) => return Ok(Err(error.into())),
                    }
                }
                Ok(Ok(all))
            }

            async fn set_many(
                &mut self,
                _: Resource<StateBucket>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> KeyvalueResult<(), $draft::wasi::keyvalue::store::Error> {
                for (key, value) in pairs {
                    if let Err(error) = State::set(self, key, value, None).await? {
                        return Ok(Err(error.into()));
                    }
                }
                Ok(Ok(()))
            }

            async fn delete_many(
                &mut self,
                _: Resource<StateBucket>,
                keys: Vec<String>,
            ) -> KeyvalueResult<(), $draft::wasi::keyvalue::store::Error> {
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

draft!(draft, u64);
draft!(draft2, String);

impl draft::wasi::keyvalue::atomics::Host for GuestState {
    async fn increment(
        &mut self,
        _: Resource<StateBucket>,
        key: String,
        delta: u64,
    ) -> KeyvalueResult<u64, draft::wasi::keyvalue::store::Error> {
        let out_of_range =
            || draft::wasi::keyvalue::store::Error::Other("a counter of this interface is not negative".into());
        let Ok(delta) = i64::try_from(delta) else { return Ok(Err(out_of_range())) };
        let sum = State::increment(self, key, delta).await?;
        Ok(sum.map_err(Into::into).and_then(|sum| u64::try_from(sum).map_err(|_| out_of_range())))
    }
}

impl draft2::wasi::keyvalue::atomics::Host for GuestState {
    async fn increment(
        &mut self,
        _: Resource<StateBucket>,
        key: String,
        delta: i64,
    ) -> KeyvalueResult<i64, draft2::wasi::keyvalue::store::Error> {
        Ok(State::increment(self, key, delta).await?.map_err(Into::into))
    }

    async fn swap(
        &mut self,
        swap: Resource<SwapHandle>,
        value: Vec<u8>,
    ) -> KeyvalueResult<(), draft2::wasi::keyvalue::atomics::CasError> {
        let SwapHandle { state_key, .. } = self.table.delete(swap)?;
        let set = State::set(self, state_key, value, None).await?;
        Ok(set.map_err(|error| draft2::wasi::keyvalue::atomics::CasError::StoreError(error.into())))
    }
}

impl draft2::wasi::keyvalue::atomics::HostCas for GuestState {
    async fn new(
        &mut self,
        _: Resource<StateBucket>,
        key: String,
    ) -> KeyvalueResult<Resource<SwapHandle>, draft2::wasi::keyvalue::store::Error> {
        match State::get(self, key.clone()).await? {
            Ok(seen) => Ok(Ok(self.table.push(SwapHandle { state_key: key, seen })?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn current(
        &mut self,
        swap: Resource<SwapHandle>,
    ) -> KeyvalueResult<Option<Vec<u8>>, draft2::wasi::keyvalue::store::Error> {
        Ok(Ok(self.table.get(&swap)?.seen.clone()))
    }

    async fn drop(&mut self, swap: Resource<SwapHandle>) -> wasmtime::Result<()> {
        self.table.delete(swap)?;
        Ok(())
    }
}
