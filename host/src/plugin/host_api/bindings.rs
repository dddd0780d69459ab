//! The bindings of the package in `wit/`, generated from it and from nothing else.
//!
//! `describe` is optional for a plugin; the world here exports it so that its bindings exist, and the parts of the world
//! are looked up one by one.

#![allow(missing_docs, reason = "generated; the WIT file is the documentation")]

wasmtime::component::bindgen!({
    path: "../wit",
    inline: "
        package eventstream:host;
        world offered {
            include eventstream:plugin/plugin@0.1.0;
            import eventstream:plugin/secrets@0.1.0;
            export eventstream:plugin/describe@0.1.0;
        }
    ",
    world: "eventstream:host/offered",
    imports: { "eventstream:plugin/state": async | trappable, default: trappable },
    exports: { default: async },
});
