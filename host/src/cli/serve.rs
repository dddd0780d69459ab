//! `eventstream serve`: reads the configuration, starts the log, and serves until it is told to stop.
//!
//! What a person needs to know is printed on standard output, one line a fact. One of the lines reads
//! `listening on http://ADDRESS:PORT` with the real port: from then on events are accepted. The line that begins with
//! `ready` follows when the plugins are loaded. Programs may rely on both.

use std::path::PathBuf;

use eventstream::app;
use eventstream::config::FlagSetting;
use eventstream::secret::SecretText;

use super::{ExitReason, announce, complain, settings};

pub(super) const EXAMPLES: &str = "\
Examples:
  eventstream serve --broker redis://127.0.0.1:6379 --plugins ./plugins
  eventstream serve --listen 0.0.0.0:3000 --allow-anonymous
  EVENTSTREAM_CONSUMER_CONCURRENCY=64 eventstream serve --config /etc/eventstream.toml
  EVENTSTREAM_BROKER_URL=redis://:PASSWORD@127.0.0.1:6379 eventstream serve

Each setting is given by its flag, else by its variable, else by the configuration file, else by its default. A password in
--broker is shown to everybody on this machine by ps: give it in the variable or in the file.";

/// The flags of `serve`. They stay text here: the configuration checks every source of a setting alike.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one [env: EVENTSTREAM_SERVER_LISTEN] [default: 127.0.0.1:3000]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// The broker: embedded:DIRECTORY or redis://HOST:PORT; a password goes into the variable, since ps shows it here
    /// [env: EVENTSTREAM_BROKER_URL] [default: embedded:./data]
    #[arg(long, value_name = "URL")]
    broker: Option<SecretText>,
    /// The directory of the plugins [env: EVENTSTREAM_PLUGINS_DIR] [default: ./plugins]
    #[arg(long, value_name = "DIR")]
    plugins: Option<String>,
    /// The configuration file [default: eventstream.toml, if there is one]
    #[arg(long, value_name = "FILE", env = "EVENTSTREAM_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// The readable part of this host's name among consumers [env: EVENTSTREAM_CONSUMER_NAME] [default: host name]
    #[arg(long, value_name = "NAME")]
    consumer_name: Option<String>,
    /// Attempts of one plugin side by side [env: EVENTSTREAM_CONSUMER_CONCURRENCY] [default: twice the cores]
    #[arg(long, value_name = "N")]
    concurrency: Option<String>,
    /// After how long the work of a host that died is taken over [env: EVENTSTREAM_CONSUMER_LEASE_MS] [default: 30000]
    #[arg(long, value_name = "MS")]
    lease_ms: Option<String>,
    /// Let everyone who reaches this server publish and read [env: EVENTSTREAM_AUTH_ALLOW_ANONYMOUS]
    #[arg(long)]
    allow_anonymous: bool,
    /// Serve although the store may lose what was accepted [env: EVENTSTREAM_BROKER_ALLOW_UNSAFE]
    #[arg(long)]
    allow_unsafe: bool,
    /// How log lines are written: auto, text, json [env: EVENTSTREAM_LOG_FORMAT]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Which log lines are written: error, warn, info, debug, trace [env: EVENTSTREAM_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl Args {
    /// What was said, as settings.
    pub(super) fn flags(&self) -> Vec<FlagSetting> {
        let truth = |said: bool| said.then(|| "true".to_owned());
        let said = [
            ("server.listen", "--listen", self.listen.clone()),
            ("broker.url", "--broker", self.broker.as_ref().map(|url| url.expose().to_owned())),
            ("plugins.dir", "--plugins", self.plugins.clone()),
            ("consumer.name", "--consumer-name", self.consumer_name.clone()),
            ("consumer.concurrency", "--concurrency", self.concurrency.clone()),
            ("consumer.lease_ms", "--lease-ms", self.lease_ms.clone()),
            ("auth.allow_anonymous", "--allow-anonymous", truth(self.allow_anonymous)),
            ("broker.allow_unsafe", "--allow-unsafe", truth(self.allow_unsafe)),
            ("log.format", "--log-format", self.log_format.clone()),
            ("log.level", "--log-level", self.log_level.clone()),
        ];
        said.into_iter().filter_map(|(key, flag, value)| value.map(|value| FlagSetting { key, flag, value })).collect()
    }
}

/// Serves until it is told to stop.
pub(super) fn run(args: &Args) -> ExitReason {
    let (config, runtime, log) = match settings::serving(args.config.as_deref(), args.flags()) {
        Ok(both) => both,
        Err(exit) => return exit,
    };
    let served = runtime.block_on(app::run(config, log, |fact| announce(fact)));
    // A store that is still being opened when the server is stopped is left as a crash would leave it.
    runtime.shutdown_background();
    ended(served)
}

/// How a command ends whose server has ended so.
pub(super) fn ended(served: Result<(), app::Error>) -> ExitReason {
    match served {
        Ok(()) => ExitReason::Done,
        Err(error) => {
            complain(&error);
            ExitReason::of(&error)
        }
    }
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
        assert_eq!((config.worker.concurrency, config.worker.lease_ms), (3, 900));
        assert_eq!(config.broker.consumer_name, "n");
        assert!(config.broker.allow_unsafe);
        assert_eq!(config.log.level.to_string(), "debug");
    }
}
