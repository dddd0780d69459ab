//! How many attempts may run side by side, in the address space that there is.

use super::options::{RegistryError, RegistryOptions};
use crate::plugin::sandbox::capacity::InstanceCapacity;

/// How many attempts may run side by side of those that the options ask for. Where there is not room for all of them and
/// the reserve, half of the room goes to plugins of which no attempt runs.
///
/// # Errors
/// [`RegistryError::Concurrency`].
pub(super) fn granted(options: &RegistryOptions, capacity: InstanceCapacity) -> Result<usize, RegistryError> {
    let asked = options.concurrency.max(1);
    let has_room = capacity.attempts >= asked.saturating_add(options.reserve);
    let granted = if has_room { asked } else { asked.min(capacity.attempts / 2) };
    if granted < options.plugin_concurrency.min(asked) {
        return Err(RegistryError::Concurrency { wanted: options.plugin_concurrency, most: granted });
    }
    if granted < asked {
        tracing::warn!(
            "the address space of this process has room for {granted} attempts side by side, of all plugins together; \
             {asked} were asked for"
        );
    }
    Ok(granted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_setting_to_lower_where_one_plugin_cannot_have_its_concurrency() {
        let options = |plugin_concurrency| RegistryOptions {
            concurrency: 64,
            reserve: 256,
            plugin_concurrency,
            ..RegistryOptions::default()
        };
        let room = |attempts| InstanceCapacity { attempts, idle: 0 };
        assert_eq!(granted(&options(64), room(320)).unwrap(), 64);
        assert_eq!(granted(&options(12), room(24)).unwrap(), 12);
        let error = granted(&options(13), room(24)).unwrap_err().to_string();
        assert!(error.contains("consumer.concurrency = 13") && error.contains("lower it to 12"), "{error}");
    }

    #[test]
    fn the_value_that_the_error_proposes_has_room() {
        for memories in [24, 30, 63, 100, 250, 500, 1_000] {
            let concurrency = |plugin_concurrency: usize| {
                let concurrency = (plugin_concurrency * 8).clamp(64, 4_096);
                let options =
                    RegistryOptions { concurrency, reserve: 256, plugin_concurrency, ..RegistryOptions::default() };
                let capacity = InstanceCapacity::of(concurrency + 256);
                granted(&options, capacity.fitting(|capacity| capacity.memories() <= memories).unwrap())
            };
            for wanted in 1..500 {
                if let Err(RegistryError::Concurrency { most, .. }) = concurrency(wanted) {
                    assert!(concurrency(most).is_ok(), "{wanted}, then {most} where {memories} fit");
                }
            }
        }
    }
}
