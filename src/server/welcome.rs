//! What a first start prints: how to use the gateway that now runs.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;

use super::root_key::Root;
use crate::config::Config;

/// The text of the first start. The key pair itself is shown on a terminal only; elsewhere it would end up in a log.
pub fn print(config: &Config, root: &Root, s3: SocketAddr, admin: SocketAddr) {
    if let Some(file) = root.file.as_deref().filter(|_| root.is_new) {
        print!(
            "{}",
            text(config, root, file, s3, admin, std::io::stdout().is_terminal())
        );
    }
}

fn text(config: &Config, root: &Root, file: &Path, s3: SocketAddr, admin: SocketAddr, shows_keys: bool) -> String {
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let file = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let file = file.display();
    let keys = if shows_keys {
        format!(
            "  access key    {}\n  secret key    {}\n",
            root.keys.access_key, root.keys.secret_key
        )
    } else {
        String::new()
    };
    let endpoint = format!("{scheme}://{s3}");
    let region = &config.region;
    format!(
        "Cairn is running.\n  S3 endpoint   {endpoint}\n  admin         http://{admin}\n  root key pair {file}\n{keys}\n\
         Paste this to use it:\n\n\
         export AWS_ENDPOINT_URL={endpoint} AWS_REGION={region} \
         $(sed 's/^access_key = /AWS_ACCESS_KEY_ID=/; s/^secret_key = /AWS_SECRET_ACCESS_KEY=/; s/\"//g' '{file}')\n\
         aws s3 mb s3://first\n\
         echo hello | aws s3 cp - s3://first/hello.txt\n\
         rclone cat \":s3,provider=Other,env_auth,endpoint='$AWS_ENDPOINT_URL':first/hello.txt\"\n\n"
    )
}
