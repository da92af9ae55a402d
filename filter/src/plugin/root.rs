//! Reads a plugin's configuration, and makes what it asks for: one plugin for each thread.
//!
//! Envoy's main thread has one too, which is configured and ticks like the others but gets no streams;
//! so none may act by itself.

use std::rc::Rc;

use super::connection_manager_plugin::ConnectionManagerPlugin;
use super::converter_plugin::ConverterPlugin;
use super::host::{self, Buffer};
use super::interface::Plugin;
use crate::config::PluginConfig;

/// Reads the configuration of a plugin, `size` bytes, and makes what it asks for.
///
/// # Errors
/// What is wrong with it, for the log.
pub(super) fn configure(size: usize) -> Result<Rc<dyn Plugin>, String> {
    host::clock().map_err(|status| format!("no clock (clock_time_get): {status}"))?;
    let json = host::buffer(Buffer::PluginConfiguration, size).map_err(|status| status.to_string())?;
    if json.is_empty() {
        return Err("configuration is missing, the least is {\"role\": \"near\"}".to_owned());
    }
    match PluginConfig::parse(&json).map_err(|error| error.to_string())? {
        PluginConfig::Converter(config) => Ok(Rc::new(ConverterPlugin::new(config)?)),
        PluginConfig::ConnectionManager(config) => match ConnectionManagerPlugin::new(config) {
            Ok(plugin) => Ok(Rc::new(plugin)),
            Err(status) => Err(format!("no connection manager: {status}")),
        },
    }
}
