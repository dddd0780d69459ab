//! A plugin that keeps its state through `wasi:keyvalue`: whatever comes, it calls every function of both drafts, asks
//! `wasi:config`, tells `wasi:logging`, and returns what they answered, a line for each.

use std::fmt::{Debug, Write};

use self::exports::eventstream::plugin::handler::{Event, EventData, Failure, Guest};
use self::wasi::config0_2_0_draft_2024_09_27::store as config2;
use self::wasi::config0_2_0_rc_1::store as config1;
use self::wasi::keyvalue0_2_0_draft::{atomics as atomics1, batch as batch1, store as store1};
use self::wasi::keyvalue0_2_0_draft2::{atomics as atomics2, batch as batch2, store as store2};
use self::wasi::logging::logging::{Level, log};

wit_bindgen::generate!({
    path: [
        "../../../host/src/plugin/host_api/keyvalue/draft.wit",
        "../../../host/src/plugin/host_api/keyvalue/draft2.wit",
        "../../../host/src/plugin/host_api/standards/config.wit",
        "../../../host/src/plugin/host_api/standards/config-2024.wit",
        "../../../host/src/plugin/host_api/standards/logging.wit",
        "../../../wit",
    ],
    inline: "
        package test:keyvalue;
        world both {
            include wasi:keyvalue/offered@0.2.0-draft;
            include wasi:keyvalue/offered@0.2.0-draft2;
            include wasi:config/offered@0.2.0-rc.1;
            include wasi:config/offered@0.2.0-draft-2024-09-27;
            include wasi:logging/offered@0.1.0-draft;
            export eventstream:plugin/handler@0.1.0;
        }
    ",
    world: "test:keyvalue/both",
    generate_all,
});

struct Keyvalue;
export!(Keyvalue);

impl Guest for Keyvalue {
    fn handle(_: Event) -> Result<Option<EventData>, Failure> {
        let mut told = String::new();
        let mut tell = |what: &str, answer: &dyn Debug| _ = writeln!(told, "{what}: {answer:?}");

        tell("another store", &store1::open("elsewhere").map(drop));
        let bucket = store1::open("").map_err(|error| Failure::Reject(format!("{error:?}")))?;
        tell("nothing", &bucket.get("a"));
        tell("set", &bucket.set("a", b"1"));
        tell("get", &bucket.get("a"));
        tell("exists", &bucket.exists("a"));
        tell("increment", &atomics1::increment(&bucket, "a", 2));
        tell("below zero", &atomics1::increment(&bucket, "a", u64::MAX));
        tell("set many", &batch1::set_many(&bucket, &[("b".into(), b"2".to_vec()), ("c".into(), b"3".to_vec())]));
        tell("get many", &batch1::get_many(&bucket, &["a".into(), "z".into()]));
        tell("delete many", &batch1::delete_many(&bucket, &["b".into()]));
        tell("list", &bucket.list_keys(None).is_err());

        let bucket = store2::open("default").map_err(|error| Failure::Reject(format!("{error:?}")))?;
        tell("increment", &atomics2::increment(&bucket, "a", -4));
        tell("get many", &batch2::get_many(&bucket, &["a".into(), "b".into()]));
        tell("delete", &bucket.delete("c"));
        tell("exists", &bucket.exists("c"));
        let swap = atomics2::Cas::new(&bucket, "a").map_err(|error| Failure::Reject(format!("{error:?}")))?;
        tell("current", &swap.current());
        tell("swap", &atomics2::swap(swap, b"swapped").is_ok());
        tell("get", &bucket.get("a"));
        tell("a key that is none", &bucket.set("", b"").is_err());
        tell("setting", &config1::get("greeting"));
        tell("settings", &config2::get_all());
        log(Level::Critical, "keyvalue", "logged");
        log(Level::Info, "", "bare");
        Ok(Some(EventData::Text(told)))
    }
}
