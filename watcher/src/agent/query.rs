//! The parameters of a request.

use super::api::bad_request;
use super::refusals::cut;
use crate::wire::problem::Problem;

/// The parameters of a request. An unknown name is refused rather than ignored.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let pairs: Vec<(String, String)> =
            form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect();
        match pairs.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(bad_request(
                format!("the parameter {:?} is not known", cut(name)),
                match known {
                    [] => "there are no parameters here".to_owned(),
                    _ => format!("the parameters are {}", known.join(", ")),
                },
            )),
            None => Ok(Self(pairs)),
        }
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
