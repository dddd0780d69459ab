//! What the memory of each instance of a component begins with.
//!
//! The engine writes it into a file in memory and seals that. Linux refuses the seal while anything else holds one of the
//! file's pages, be it for the moment that moving a page takes: it gives up after some 150 ms (`memfd_wait_for_pins` in
//! `mm/memfd.c`). So that is tried again.

use std::thread;
use std::time::Duration;

use wasmtime::component::Component;

use crate::plugin::component::load_error::LoadError;

/// How often it is tried before the component is given up.
const TRIES: u32 = 10;
/// How long is waited before it is tried again. That nobody holds a page any more is told to nobody.
const PAUSE: Duration = Duration::from_millis(20);

/// Lays out what the memory of each instance begins with. Blocks for up to two seconds.
///
/// # Errors
/// [`LoadError::Image`]; the same component may pass later.
pub(in crate::plugin) fn lay_out(component: &Component) -> Result<(), LoadError> {
    insist(PAUSE, || component.initialize_copy_on_write_image())
}

fn insist(pause: Duration, mut lay_out: impl FnMut() -> wasmtime::Result<()>) -> Result<(), LoadError> {
    let mut tries = 1;
    loop {
        match lay_out() {
            Ok(()) => return Ok(()),
            Err(error) if tries == TRIES => return Err(LoadError::Image(format!("{error:#}"))),
            Err(_) => tries += 1,
        }
        thread::sleep(pause);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_for(refusals: u32) -> (Result<(), LoadError>, u32) {
        let mut tries = 0;
        let answer = insist(Duration::ZERO, || {
            tries += 1;
            if tries > refusals { Ok(()) } else { Err(wasmtime::format_err!("cannot add seals to the memfd")) }
        });
        (answer, tries)
    }

    #[test]
    fn a_page_that_is_held_for_a_moment_keeps_no_component_from_serving() {
        for refusals in [0, 1, TRIES - 1] {
            let (answer, tries) = held_for(refusals);
            assert!(answer.is_ok());
            assert_eq!(tries, refusals + 1);
        }
    }

    #[test]
    fn what_holds_it_for_ever_is_told() {
        let (answer, tries) = held_for(u32::MAX);
        let error = answer.unwrap_err();
        assert_eq!(tries, TRIES);
        assert!(error.to_string().contains("cannot add seals") && error.is_temporary(), "{error}");
    }
}
