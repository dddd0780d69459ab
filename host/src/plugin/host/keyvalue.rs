//! `wasi:keyvalue` in the two drafts that are in use: the plugin's state under other names.
//!
//! There is one bucket, `default`, and it is the plugin's own. What the interface leaves open is as for `state`: nothing
//! stands before the commit, and what was seen must still be so then. So a swap never fails: who lost the race is handled
//! again.

use wasmtime::component::{HasSelf, Linker, Resource};

use super::Guest;
use super::wit::state::{Error as StateError, Host as State};

/// The names of the one bucket. Spin calls it `default`, wasmCloud leaves it to the link and uses either.
const BUCKETS: [&str; 2] = ["", "default"];
const NO_LISTING: &str = "keys cannot be listed; keep an index under a key of its own";

/// A handle to the plugin's own state.
pub struct Bucket;

/// A key that was read in order to be swapped.
pub struct Swap {
    key: String,
    seen: Option<Vec<u8>>,
}

impl Swap {
    /// What it holds.
    pub(super) fn size_bytes(&self) -> usize {
        self.key.len() + self.seen.as_ref().map_or(0, Vec::len)
    }
}

mod draft {
    wasmtime::component::bindgen!({
        path: "src/plugin/host/keyvalue/draft.wit",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket },
    });

    pub(super) type Got = Option<(String, Vec<u8>)>;

    pub(super) fn got(key: String, value: Option<Vec<u8>>) -> Got {
        value.map(|value| (key, value))
    }
}

mod draft2 {
    wasmtime::component::bindgen!({
        path: "src/plugin/host/keyvalue/draft2.wit",
        imports: { default: async | trappable },
        with: { "wasi:keyvalue/store.bucket": super::Bucket, "wasi:keyvalue/atomics.cas": super::Swap },
    });

    pub(super) type Got = (String, Option<Vec<u8>>);

    pub(super) fn got(key: String, value: Option<Vec<u8>>) -> Got {
        (key, value)
    }
}

/// Adds both drafts.
///
/// # Errors
/// Never, unless the linker has one of them.
pub(super) fn add_to_linker(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    draft::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)?;
    draft2::Offered::add_to_linker::<_, HasSelf<_>>(linker, |guest| guest)
}

type Answer<T, E> = wasmtime::Result<Result<T, E>>;

/// The parts of both drafts that are written alike; their types are different ones to the compiler.
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

        impl $draft::wasi::keyvalue::store::Host for Guest {
            async fn open(
                &mut self,
                identifier: String,
            ) -> Answer<Resource<Bucket>, $draft::wasi::keyvalue::store::Error> {
                self.output.spend(identifier.len())?;
                match BUCKETS.contains(&identifier.as_str()) {
                    true => Ok(Ok(self.table.push(Bucket)?)),
                    false => Ok(Err($draft::wasi::keyvalue::store::Error::NoSuchStore)),
                }
            }
        }

        impl $draft::wasi::keyvalue::store::HostBucket for Guest {
            async fn get(
                &mut self,
                _: Resource<Bucket>,
                key: String,
            ) -> Answer<Option<Vec<u8>>, $draft::wasi::keyvalue::store::Error> {
                Ok(State::get(self, key).await?.map_err(Into::into))
            }

            async fn set(
                &mut self,
                _: Resource<Bucket>,
                key: String,
                value: Vec<u8>,
            ) -> Answer<(), $draft::wasi::keyvalue::store::Error> {
                Ok(State::set(self, key, value, None).await?.map_err(Into::into))
            }

            async fn delete(
                &mut self,
                _: Resource<Bucket>,
                key: String,
            ) -> Answer<(), $draft::wasi::keyvalue::store::Error> {
                Ok(State::delete(self, key).await?.map_err(Into::into))
            }

            async fn exists(
                &mut self,
                _: Resource<Bucket>,
                key: String,
            ) -> Answer<bool, $draft::wasi::keyvalue::store::Error> {
                Ok(State::get(self, key).await?.map(|value| value.is_some()).map_err(Into::into))
            }

            async fn list_keys(
                &mut self,
                _: Resource<Bucket>,
                _: Option<$cursor>,
            ) -> Answer<$draft::wasi::keyvalue::store::KeyResponse, $draft::wasi::keyvalue::store::Error> {
                Ok(Err($draft::wasi::keyvalue::store::Error::Other(NO_LISTING.into())))
            }

            async fn drop(&mut self, bucket: Resource<Bucket>) -> wasmtime::Result<()> {
                self.table.delete(bucket)?;
                Ok(())
            }
        }

        impl $draft::wasi::keyvalue::batch::Host for Guest {
            async fn get_many(
                &mut self,
                _: Resource<Bucket>,
                keys: Vec<String>,
            ) -> Answer<Vec<$draft::Got>, $draft::wasi::keyvalue::store::Error> {
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
                _: Resource<Bucket>,
                pairs: Vec<(String, Vec<u8>)>,
            ) -> Answer<(), $draft::wasi::keyvalue::store::Error> {
                for (key, value) in pairs {
                    if let Err(error) = State::set(self, key, value, None).await? {
                        return Ok(Err(error.into()));
                    }
                }
                Ok(Ok(()))
            }

            async fn delete_many(
                &mut self,
                _: Resource<Bucket>,
                keys: Vec<String>,
            ) -> Answer<(), $draft::wasi::keyvalue::store::Error> {
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

impl draft::wasi::keyvalue::atomics::Host for Guest {
    async fn increment(
        &mut self,
        _: Resource<Bucket>,
        key: String,
        delta: u64,
    ) -> Answer<u64, draft::wasi::keyvalue::store::Error> {
        let beyond =
            || draft::wasi::keyvalue::store::Error::Other("a counter of this interface is not negative".into());
        let Ok(delta) = i64::try_from(delta) else { return Ok(Err(beyond())) };
        let sum = State::increment(self, key, delta).await?;
        Ok(sum.map_err(Into::into).and_then(|sum| u64::try_from(sum).map_err(|_| beyond())))
    }
}

impl draft2::wasi::keyvalue::atomics::Host for Guest {
    async fn increment(
        &mut self,
        _: Resource<Bucket>,
        key: String,
        delta: i64,
    ) -> Answer<i64, draft2::wasi::keyvalue::store::Error> {
        Ok(State::increment(self, key, delta).await?.map_err(Into::into))
    }

    async fn swap(
        &mut self,
        swap: Resource<Swap>,
        value: Vec<u8>,
    ) -> Answer<(), draft2::wasi::keyvalue::atomics::CasError> {
        let Swap { key, .. } = self.table.delete(swap)?;
        let set = State::set(self, key, value, None).await?;
        Ok(set.map_err(|error| draft2::wasi::keyvalue::atomics::CasError::StoreError(error.into())))
    }
}

impl draft2::wasi::keyvalue::atomics::HostCas for Guest {
    async fn new(
        &mut self,
        _: Resource<Bucket>,
        key: String,
    ) -> Answer<Resource<Swap>, draft2::wasi::keyvalue::store::Error> {
        match State::get(self, key.clone()).await? {
            Ok(seen) => Ok(Ok(self.table.push(Swap { key, seen })?)),
            Err(error) => Ok(Err(error.into())),
        }
    }

    async fn current(&mut self, swap: Resource<Swap>) -> Answer<Option<Vec<u8>>, draft2::wasi::keyvalue::store::Error> {
        Ok(Ok(self.table.get(&swap)?.seen.clone()))
    }

    async fn drop(&mut self, swap: Resource<Swap>) -> wasmtime::Result<()> {
        self.table.delete(swap)?;
        Ok(())
    }
}
