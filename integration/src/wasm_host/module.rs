//! The built module, and where it lies.

use std::path::PathBuf;
use std::sync::OnceLock;

use wasmtime::{Config, Engine, Module};

/// Where the built module lies: `WSFERRY_WASM`, or where `scripts/build` puts it. Relative paths are those of the workspace's
/// root, where cargo is called, and not of this package, where it starts tests.
pub fn module_path() -> PathBuf {
    let root = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if let Some(path) = std::env::var_os("WSFERRY_WASM") {
        return root.join(path);
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    root.join(target)
        .join("wasm32-unknown-unknown/release/wsferry.wasm")
}

/// Compiled once for all VMs.
pub(super) fn module() -> &'static Module {
    static MODULE: OnceLock<Module> = OnceLock::new();
    MODULE.get_or_init(|| {
        let path = module_path();
        let bytes = std::fs::read(&path)
            .unwrap_or_else(|error| panic!("{}: {error}; run scripts/build first", path.display()));
        let engine = Engine::new(&Config::new()).expect("an engine");
        Module::new(&engine, &bytes).expect("a valid module")
    })
}
