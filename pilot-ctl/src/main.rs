//! pilotctl.
#![forbid(unsafe_code)]
mod commands; mod env_vars; mod exit_code; mod hint; mod output;
fn main() { let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("x"); let _ = rt.block_on(commands::mcp::demo_server::run()); }
