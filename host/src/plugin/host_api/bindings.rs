//! The generated bindings of the package in `wit/`.
//!
//! `describe` is optional for a plugin. The world exports it here only to get its bindings; each export is looked up
//! separately.

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
