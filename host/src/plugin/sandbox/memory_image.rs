//! Prepares the initial memory image of a component.
//!
//! The engine writes the image to a memory file and seals it. Linux refuses the seal while anything pins a page of the file,
//! for example while the kernel moves the page. It gives up after about 150 ms (`memfd_wait_for_pins` in `mm/memfd.c`). So
//! this module tries again.

use std::thread;
use std::time::Duration;

use wasmtime::component::Component;

use crate::plugin::component::load_error::LoadError;

/// The number of tries.
const TRIES: u32 = 10;
/// The pause between tries. The kernel sends no notification when a pin ends.
const PAUSE: Duration = Duration::from_millis(20);

/// Prepares the initial memory image of a component. Blocks for up to two seconds.
///
/// # Errors
/// [`LoadError::Image`]. The same component may load later.
pub(in crate::plugin) fn prepare_image(component: &Component) -> Result<(), LoadError> {
    retry(PAUSE, || component.initialize_copy_on_write_image())
}

fn retry(pause: Duration, mut prepare: impl FnMut() -> wasmtime::Result<()>) -> Result<(), LoadError> {
    let mut tries = 1;
    loop {
        match prepare() {
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

    fn refused(refusals: u32) -> (Result<(), LoadError>, u32) {
        let mut tries = 0;
        let answer = retry(Duration::ZERO, || {
            tries += 1;
            if tries > refusals { Ok(()) } else { Err(wasmtime::format_err!("cannot add seals to the memfd")) }
        });
        (answer, tries)
    }

    #[test]
    fn a_page_that_is_pinned_for_a_moment_only_delays_a_component() {
        for refusals in [0, 1, TRIES - 1] {
            let (answer, tries) = refused(refusals);
            assert!(answer.is_ok());
            assert_eq!(tries, refusals + 1);
        }
    }

    #[test]
    fn a_page_that_stays_pinned_is_an_error() {
        let (answer, tries) = refused(u32::MAX);
        let error = answer.unwrap_err();
        assert_eq!(tries, TRIES);
        assert!(error.to_string().contains("cannot add seals") && error.is_temporary(), "{error}");
    }
}
