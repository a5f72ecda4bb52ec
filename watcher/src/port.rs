//! Which port is meant.

/// OpenClaw's gateway port.
pub const DEFAULT: u16 = 18789;
/// The environment's word on it.
pub const VARIABLE: &str = "OPENCLAW_GATEWAY_PORT";

/// A port from 1 to 65535, in digits.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = if digits { text.parse().ok().filter(|&port: &u16| port != 0) } else { None };
    port.ok_or_else(|| "a port is a number from 1 to 65535".to_owned())
}

/// The environment's forms: digits, `host:port` with one colon, `[v6]:port`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn parse_variable(text: &str) -> Result<u16, String> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        let port = rest.split_once("]:").map(|(_, port)| port);
        return parse(port.ok_or_else(|| "a bracket needs its `]:` and a port".to_owned())?);
    }
    match text.split_once(':') {
        None => parse(text),
        Some((_, port)) if !port.contains(':') => parse(port),
        Some(_) => Err("an IPv6 address goes in brackets: [::1]:18789".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn each_form_of_the_variable_is_read() {
        for (text, port) in [("18789", 18789), ("localhost:1", 1), ("[::1]:65535", 65535), (" 80 ", 80)] {
            assert_eq!(parse_variable(text), Ok(port), "{text:?}");
        }
        for text in ["", "0", "65536", "-1", "+1", "1.5", "::1:80", "[::1]", "[::1]80", "host:", "x", "1e3"] {
            assert!(parse_variable(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_port_is_read_in_every_form(port in 1u16..) {
            for text in [port.to_string(), format!("h:{port}"), format!("[::]:{port}")] {
                prop_assert_eq!(parse_variable(&text), Ok(port));
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,30}") {
            if let Ok(port) = parse_variable(&text) {
                prop_assert!(port > 0 && text.contains(&port.to_string()));
            }
        }
    }
}
