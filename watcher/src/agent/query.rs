//! The parameters of a request.

use std::collections::HashSet;

use super::api::bad_request;
use super::refusals::cut;
use crate::wire::problem::Problem;

/// The one parameter that can be said more than once.
const LIST: &str = "port";

/// The parameters of a request. An unknown name is refused rather than ignored, and so is one that is said twice: which of the
/// two was meant can't be known.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect();
        let mut said = HashSet::new();
        for (name, _) in &pairs {
            if !known.contains(&name.as_str()) {
                return Err(bad_request(
                    format!("the parameter {:?} is not known", cut(name)),
                    match known {
                        [] => "there are no parameters here".to_owned(),
                        _ => format!("the parameters are {}", known.join(", ")),
                    },
                ));
            }
            if !said.insert(name.as_str()) && name != LIST {
                return Err(bad_request(format!("the parameter {name:?} is said twice"), "say it once"));
            }
        }
        Ok(Self(pairs))
    }

    pub(super) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn get(&self, name: &'static str) -> Option<&str> {
        self.all(name).next()
    }

    pub(super) fn number(&self, name: &'static str) -> Result<Option<u32>, Problem> {
        let wrong = |_| bad_request(format!("{name} is not a number"), "a whole number, 0 or more");
        self.get(name).map(str::parse).transpose().map_err(wrong)
    }
}
