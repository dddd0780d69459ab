//! How many files and connections the process may have open.
//!
//! Each connection takes a descriptor, and the soft limit of a login or a service is often 1,024, which programs that wait
//! with `select` need. This one does not, and takes what it is allowed.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the soft limit to the hard one. Where that is not allowed the limit stays, and the log says so.
pub(super) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        let shown = current.map_or_else(|| "unlimited".to_owned(), |current| current.to_string());
        tracing::warn!("the limit of open files stays at {shown}, which connections count against: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        let lower = before.maximum.map_or(1 << 20, |maximum| maximum - 1);
        setrlimit(Resource::Nofile, Rlimit { current: Some(lower), ..before }).unwrap();
        raise_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
