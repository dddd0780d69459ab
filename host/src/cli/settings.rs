//! What the commands without a server share: the configuration, the runtime, and the log.

use std::path::{Path, PathBuf};

use clap::builder::{PathBufValueParser, TypedValueParser};
use eventstream::config::{self, Config, ConfigSources, FlagSetting};
use eventstream::secret::{SecretText, is_address};
use eventstream::telemetry::{self, LogGuard};
use tokio::runtime::Runtime;

use super::output::{ExitReason, report_as, report_error};

/// Parses a path. An address in its place may hold a password and would become the name of a file.
pub(super) fn path_parser() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match is_address(&path.to_string_lossy()) {
        true => Err(
            "this is an address, not a path; --broker takes the address of a store; write a path that has : and @ as ./PATH",
        ),
        false => Ok(path),
    })
}

/// The broker and the configuration, for commands that work on a store.
#[derive(Debug, clap::Args)]
pub(super) struct BrokerArgs {
    /// The broker: embedded:DIRECTORY or redis://HOST:PORT; give a password in the variable, since ps shows flags
    /// [env: EVENTSTREAM_BROKER_URL] [default: embedded:./data]
    #[arg(long, value_name = "URL")]
    broker: Option<SecretText>,
    /// The configuration file [default: eventstream.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "EVENTSTREAM_CONFIG", hide_env_values = true, value_parser = path_parser())]
    config: Option<PathBuf>,
}

impl BrokerArgs {
    /// Whether the command line names a broker.
    pub(super) fn names_broker(&self) -> bool {
        self.broker.is_some()
    }

    /// Reads the configuration and starts the runtime and the log; drop the guard last. The log is off unless its level is
    /// set, because these commands report what they do. An error has been reported.
    pub(super) fn open(&self) -> Result<(Config, Runtime, LogGuard), ExitReason> {
        let broker = self.broker.as_ref().map(SecretText::expose).map(str::to_owned);
        let broker = broker.map(|value| FlagSetting { key: "broker.url", flag: "--broker", value });
        let config = load(self.config.as_deref(), broker.into_iter().collect())?;
        let is_default = config.log.level == telemetry::LevelFilter::default();
        let silent = is_default.then(|| "off".parse().ok()).flatten();
        let log = telemetry::LogOptions { level: silent.unwrap_or(config.log.level.clone()), ..config.log };
        let log = start_log(&log)?;
        Ok((config, start_runtime()?, log))
    }
}

/// Reads the configuration from all sources. An error has been reported.
pub(super) fn load(file: Option<&Path>, flags: Vec<FlagSetting>) -> Result<Config, ExitReason> {
    report_faults(Config::load(&ConfigSources {
        file: file.map(Path::to_owned),
        environment: read_environment(),
        flags,
    }))
}

/// Reads the configuration from the environment alone, for commands on files from others: a configuration file in the
/// working directory may have come with them. An error has been reported.
pub(super) fn load_without_file() -> Result<Config, ExitReason> {
    report_faults(Config::from_layers(None, &read_environment(), &[]))
}

fn read_environment() -> Vec<(String, String)> {
    // A value that is not UTF-8 is kept, so that it is refused rather than ignored.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect()
}

fn report_faults(config: Result<Config, config::Error>) -> Result<Config, ExitReason> {
    config.map_err(|error| {
        match error {
            config::Error::Invalid(faults) => faults.iter().for_each(report_error),
            error => report_error(error),
        }
        ExitReason::Usage
    })
}

/// Reads the configuration and starts the runtime and the log, for a server. An error has been reported.
pub(super) fn open_for_serving(
    file: Option<&Path>,
    flags: Vec<FlagSetting>,
) -> Result<(Config, Runtime, LogGuard), ExitReason> {
    let config = load(file, flags)?;
    let runtime = start_runtime()?;
    let log = start_log(&config.log)?;
    Ok((config, runtime, log))
}

fn start_log(options: &telemetry::LogOptions) -> Result<LogGuard, ExitReason> {
    telemetry::init(options)
        .map_err(|error| report_as(ExitReason::Failed, format_args!("the log cannot be started: {error:#}")))
}

/// Starts the threads of the runtime. An error has been reported.
pub(super) fn start_runtime() -> Result<Runtime, ExitReason> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("eventstream").build();
    runtime
        .map_err(|error| report_as(ExitReason::Failed, format_args!("the program cannot start its threads: {error}")))
}
