//! What the commands that work with a store by themselves share: the configuration, a runtime, the log.

use std::path::{Path, PathBuf};

use eventstream::config::{self, Config, ConfigSources, FlagSetting};
use eventstream::secret::SecretText;
use eventstream::telemetry::{self, LogGuard};
use tokio::runtime::Runtime;

use super::{ExitReason, complain};

/// The broker, for every command that works with one.
#[derive(Debug, clap::Args)]
pub(super) struct BrokerArgs {
    /// The broker: embedded:DIRECTORY or redis://HOST:PORT; a password goes into the variable, since ps shows it here
    /// [env: EVENTSTREAM_BROKER_URL] [default: embedded:./data]
    #[arg(long, value_name = "URL")]
    broker: Option<SecretText>,
    /// The configuration file [default: eventstream.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "EVENTSTREAM_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
}

impl BrokerArgs {
    /// The configuration, a runtime and the log, to be kept until the end. The log is silent unless one was asked for:
    /// these commands say themselves what happens. What is wrong has been said.
    pub(super) fn open(&self) -> Result<(Config, Runtime, LogGuard), ExitReason> {
        let broker = self.broker.as_ref().map(SecretText::expose).map(str::to_owned);
        let broker = broker.map(|value| FlagSetting { key: "broker.url", flag: "--broker", value });
        let config = load(self.config.as_deref(), broker.into_iter().collect())?;
        let is_default = config.log.level == telemetry::LevelFilter::default();
        let quiet = is_default.then(|| "off".parse().ok()).flatten();
        let log = telemetry::LogOptions { level: quiet.unwrap_or(config.log.level.clone()), ..config.log };
        let log = start_log(&log)?;
        Ok((config, runtime()?, log))
    }
}

/// The configuration by all its sources. What is wrong with it has been said.
pub(super) fn load(file: Option<&Path>, flags: Vec<FlagSetting>) -> Result<Config, ExitReason> {
    checked(Config::load(&ConfigSources { file: file.map(Path::to_owned), environment: environment(), flags }))
}

/// The configuration by the environment alone. For whoever looks at somebody else's files: a configuration file that lies
/// there may have come with them.
pub(super) fn load_without_file() -> Result<Config, ExitReason> {
    checked(Config::from_layers(None, &environment(), &[]))
}

fn environment() -> Vec<(String, String)> {
    // A variable of ours that is not UTF-8 is kept, so that it is refused and not overlooked.
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())))
        .collect()
}

fn checked(config: Result<Config, config::Error>) -> Result<Config, ExitReason> {
    config.map_err(|error| {
        match error {
            config::Error::Invalid(faults) => faults.iter().for_each(complain),
            error => complain(error),
        }
        ExitReason::Usage
    })
}

/// What a server needs: the configuration, a runtime, and the log, which is started. What is wrong has been said.
pub(super) fn serving(file: Option<&Path>, flags: Vec<FlagSetting>) -> Result<(Config, Runtime, LogGuard), ExitReason> {
    let config = load(file, flags)?;
    let runtime = runtime()?;
    let log = start_log(&config.log)?;
    Ok((config, runtime, log))
}

fn start_log(options: &telemetry::LogOptions) -> Result<LogGuard, ExitReason> {
    telemetry::init(options).map_err(|error| {
        complain(format!("the log cannot be started: {error:#}"));
        ExitReason::Failed
    })
}

/// The threads that a command runs on. What is wrong has been said.
pub(super) fn runtime() -> Result<Runtime, ExitReason> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("eventstream").build();
    runtime.map_err(|error| {
        complain(format!("the threads of the program cannot be started: {error}"));
        ExitReason::Failed
    })
}
