//! `eventstream serve`: reads the configuration, starts the log, and serves until a signal stops it.
//!
//! It prints its state on standard output, one line for each fact. The line `listening on http://ADDRESS:PORT` has the
//! actual port: from then on the server accepts events. A line that begins with `ready` follows when the plugins are
//! loaded. Programs may rely on both.

use std::io::IsTerminal;
use std::path::PathBuf;

use eventstream::app::{self, FirstKey};
use eventstream::config::FlagSetting;
use eventstream::secret::SecretText;
use eventstream::shutdown::EarlyStop;

use super::output::{CommandResult, ExitReason, announce_fact};
use super::settings;

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream serve --broker redis://127.0.0.1:6379 --plugins ./plugins
  eventstream serve --listen 0.0.0.0:3000 --allow-anonymous
  EVENTSTREAM_CONSUMER_CONCURRENCY=64 eventstream serve --config /etc/eventstream.toml
  EVENTSTREAM_BROKER_URL=redis://:PASSWORD@127.0.0.1:6379 eventstream serve

A flag overrides the environment variable, which overrides the configuration file, which overrides the default. Other users
of this machine see the value of --broker (ps): give a password in the variable or in the file.

Exit codes: 0 stopped, 1 failed, 2 usage or configuration, 3 broker unreachable";

/// The flags of `serve`. They stay text here, because the configuration checks all sources of a setting alike.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The address to listen on; port 0 takes a free port [env: EVENTSTREAM_SERVER_LISTEN] [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The broker: embedded:DIRECTORY or redis://HOST:PORT; give a password in the variable, since ps shows flags
    /// [env: EVENTSTREAM_BROKER_URL] [default: embedded:./data]
    #[arg(long, value_name = "URL")]
    broker: Option<SecretText>,
    /// The plugin directory [env: EVENTSTREAM_PLUGINS_DIR] [default: ./plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<String>,
    /// The configuration file [default: eventstream.toml, if it exists]
    #[arg(long, value_name = "FILE", env = "EVENTSTREAM_CONFIG", hide_env_values = true, value_parser = settings::path_parser())]
    config: Option<PathBuf>,
    /// The readable part of this host's consumer name [env: EVENTSTREAM_CONSUMER_NAME] [default: the host name]
    #[arg(long, value_name = "NAME")]
    consumer_name: Option<String>,
    /// How many attempts of one plugin run at the same time [env: EVENTSTREAM_CONSUMER_CONCURRENCY] [default: twice the cores]
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// After how many milliseconds the work of a dead host is taken over [env: EVENTSTREAM_CONSUMER_LEASE_MS] [default: 30000]
    #[arg(long, value_name = "MS")]
    lease_ms: Option<String>,
    /// Let everyone who reaches this server publish and read events [env: EVENTSTREAM_AUTH_ALLOW_ANONYMOUS] [default: false]
    #[arg(long)]
    allow_anonymous: bool,
    /// Serve even if the store may lose accepted events [env: EVENTSTREAM_BROKER_ALLOW_UNSAFE] [default: false]
    #[arg(long)]
    allow_unsafe: bool,
    /// The format of the log: auto (text on a terminal, else JSON), text, json [env: EVENTSTREAM_LOG_FORMAT] [default: auto]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// The level of the log: error, warn, info, debug, trace, or by module: info,eventstream::api=debug [env: EVENTSTREAM_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Args {
    /// Returns the flags that were given, as settings.
    pub(super) fn flags(&self) -> Vec<FlagSetting> {
        let switch = |given: bool| given.then(|| "true".to_owned());
        let given = [
            ("server.listen", "--listen", self.listen.clone()),
            ("broker.url", "--broker", self.broker.as_ref().map(|url| url.expose().to_owned())),
            ("plugins.dir", "--plugins", self.plugins.clone()),
            ("consumer.name", "--consumer-name", self.consumer_name.clone()),
            ("consumer.concurrency", "--concurrency", self.concurrency.clone()),
            ("consumer.lease_ms", "--lease-ms", self.lease_ms.clone()),
            ("auth.allow_anonymous", "--allow-anonymous", switch(self.allow_anonymous)),
            ("broker.allow_unsafe", "--allow-unsafe", switch(self.allow_unsafe)),
            ("log.format", "--log-format", self.log_format.clone()),
            ("log.level", "--log-level", self.log_level.clone()),
        ];
        given.into_iter().filter_map(|(key, flag, value)| value.map(|value| FlagSetting { key, flag, value })).collect()
    }
}

/// Serves until a signal stops it.
pub(super) fn run(args: &Args, early_stop: Option<EarlyStop>) -> CommandResult {
    let (config, runtime, log) = settings::open_for_serving(args.config.as_deref(), args.flags())?;
    let served = runtime.block_on(app::run(config, log, early_stop, first_key(), |fact| announce_fact(fact)));
    // Does not wait for a store that is still opening: it survives this as it survives a crash.
    runtime.shutdown_background();
    served.map(|()| ExitReason::Done).map_err(|error| ExitReason::report(&error))
}

/// A key may be shown where a person reads it, and must not get into a log.
pub(super) fn first_key() -> FirstKey {
    if std::io::stdout().is_terminal() { FirstKey::Announce } else { FirstKey::Refuse }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use eventstream::config::Config;

    use super::*;

    #[derive(Parser)]
    struct ServeFlags {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn every_flag_is_a_setting() {
        let all = "serve --listen 127.0.0.1:1 --broker redis://h --plugins p --consumer-name n --concurrency 3 --lease-ms 900 \
             --allow-anonymous --allow-unsafe --log-format json --log-level debug";
        let args = ServeFlags::try_parse_from(all.split_whitespace()).unwrap().args;
        let config = Config::from_layers(None, &[], &args.flags()).unwrap();
        assert_eq!(config.server.listen.to_string(), "127.0.0.1:1");
        assert_eq!((config.worker.concurrency, config.broker.lease_ms), (3, 900));
        assert_eq!(config.broker.consumer_name, "n");
        assert!(config.broker.allow_unsafe);
        assert_eq!(config.log.level.to_string(), "debug");
    }
}
