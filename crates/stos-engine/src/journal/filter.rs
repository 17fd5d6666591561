// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which events are shown: `KEY=VALUE`, as podman has it.

use std::str::FromStr;

use jiff::Timestamp;
use stos_spec::ImageRef;

use super::event::{Event, Kind, Status};
use crate::error::{Error, Result};

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// It happened to the container of this name, or whose id begins so.
    Container(String),
    /// It is this that happened.
    Event(String),
    /// It happened to the image of this name, or whose ID begins so.
    Image(String),
    /// It happened to a container with this label, with this value where one is given.
    Label(String, Option<String>),
    /// It happened to one of these.
    Type(String),
}

impl FromStr for Filter {
    type Err = Error;

    /// Reads `container=`, `event=` (or `status=`), `image=`, `label=` or `type=` (podman-events(1)).
    fn from_str(text: &str) -> Result<Self> {
        let refuse = |reason: String| Error::Option { option: "--filter", value: text.to_owned(), reason };
        let Some((key, value)) = text.split_once('=') else {
            return Err(refuse("expected KEY=VALUE".to_owned()));
        };
        let owned = value.to_owned();
        Ok(match key.to_ascii_lowercase().as_str() {
            "container" => Self::Container(owned),
            "event" | "status" => Self::Event(owned),
            "image" => Self::Image(owned),
            "label" => match value.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(owned, None),
            },
            "type" => Self::Type(owned),
            other => {
                return Err(refuse(format!("expected container, event, image, label or type, found {other:?}")));
            }
        })
    }
}

impl Filter {
    fn fits(&self, event: &Event) -> bool {
        match self {
            Self::Container(wanted) => {
                event.kind == Kind::Container.word()
                    && (event.name == *wanted || (!wanted.is_empty() && event.id.starts_with(wanted)))
            }
            Self::Event(wanted) => event.status == *wanted,
            Self::Image(wanted) => event.kind == Kind::Image.word() && is_image(event, wanted),
            Self::Label(key, value) => {
                event.labels.get(key).is_some_and(|own| value.as_ref().is_none_or(|value| value == own))
            }
            Self::Type(wanted) => event.kind == *wanted,
        }
    }

    /// Gives the word that it asks for where no event of stos has it: podman knows more, so it is no mistake.
    pub fn unknown_word(&self) -> Option<&str> {
        match self {
            Self::Event(word) if Status::ALL.iter().all(|status| status.word() != word) => Some(word),
            Self::Type(word) if Kind::ALL.iter().all(|kind| kind.word() != word) => Some(word),
            _ => None,
        }
    }
}

/// An image is called as `images` shows it, or shorter.
fn is_image(event: &Event, wanted: &str) -> bool {
    let digits = wanted.strip_prefix("sha256:").unwrap_or(wanted);
    let may_mean = || {
        let names = wanted.parse::<ImageRef>().and_then(|wanted| Ok((wanted, event.name.parse::<ImageRef>()?)));
        names.is_ok_and(|(wanted, own)| wanted == own || wanted.may_mean(&own))
    };
    event.name == wanted || (!digits.is_empty() && event.id.starts_with(digits)) || may_mean()
}

/// Which events are shown: of filters of one kind any must fit, and of each kind one.
#[derive(Debug, Clone, Default)]
pub struct Filters {
    /// The conditions.
    pub filters: Vec<Filter>,
    /// Only what happened after this.
    pub since: Option<Timestamp>,
    /// Only what happened before this.
    pub until: Option<Timestamp>,
}

impl Filters {
    /// Tells whether an event is shown.
    pub fn fit(&self, event: &Event) -> bool {
        let is_in_time =
            self.since.is_none_or(|since| event.time > since) && self.until.is_none_or(|until| event.time < until);
        is_in_time
            && self.filters.iter().all(|one| {
                let kind = std::mem::discriminant(one);
                let mut same = self.filters.iter().filter(|other| std::mem::discriminant(*other) == kind);
                same.any(|filter| filter.fits(event))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let read = |text: &str| serde_json::from_str(text).unwrap();
        [
            r#"{"time":"2026-01-01T00:00:01Z","type":"image","status":"pull","id":"aa11","name":"docker.io/library/x:1"}"#,
            r#"{"time":"2026-01-01T00:00:02Z","type":"container","status":"create","id":"bb22","name":"web","image":"docker.io/library/x:1","labels":{"a":"b"}}"#,
            r#"{"time":"2026-01-01T00:00:03Z","type":"container","status":"start","id":"bb22","name":"web","image":"docker.io/library/x:1","labels":{"a":"b"}}"#,
            r#"{"time":"2026-01-01T00:00:04Z","type":"container","status":"start","id":"cc33","name":"aa","labels":{"a":"c=d"}}"#,
        ]
        .map(read)
        .to_vec()
    }

    /// The numbers of the events that fit.
    fn fitting(filters: &Filters) -> Vec<usize> {
        let events = events();
        (0..events.len()).filter(|at| filters.fit(&events[*at])).collect()
    }

    #[test]
    fn one_of_each_kind_must_fit() {
        for (filters, expected) in [
            (&[][..], &[0, 1, 2, 3][..]),
            (&["container=web"], &[1, 2]),
            (&["container=bb"], &[1, 2]),
            (&["container=aa"], &[3]),
            (&["container="], &[]),
            (&["container=web", "container=cc33"], &[1, 2, 3]),
            (&["event=start"], &[2, 3]),
            (&["status=start", "event=create"], &[1, 2, 3]),
            (&["event=start", "container=web"], &[2]),
            (&["image=docker.io/library/x:1"], &[0]),
            (&["image=x:1"], &[0]),
            (&["image=x:2"], &[]),
            (&["image=sha256:aa"], &[0]),
            (&["image=bb22"], &[]),
            (&["image=x:1", "container=web"], &[]),
            (&["type=image"], &[0]),
            (&["TYPE=container", "label=a"], &[1, 2, 3]),
            (&["label=a=b"], &[1, 2]),
            (&["label=a=c=d"], &[3]),
            (&["label=b", "label=a=c=d"], &[3]),
            (&["type=volume"], &[]),
        ] {
            let read = filters.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(fitting(&Filters { filters: read, ..Filters::default() }), expected, "{filters:?}");
        }
    }

    #[test]
    fn times_bound_what_is_shown() {
        let time = |text: &str| Some(text.parse().unwrap());
        let filters = Filters { since: time("2026-01-01T00:00:01Z"), ..Filters::default() };
        assert_eq!(fitting(&filters), [1, 2, 3], "after, not at");
        assert_eq!(fitting(&Filters { until: time("2026-01-01T00:00:03Z"), ..filters }), [1]);
    }

    #[test]
    fn what_is_no_filter_is_refused() {
        for text in ["", "x", "pod=x", "=x"] {
            assert!(matches!(text.parse::<Filter>(), Err(Error::Option { .. })), "{text}");
        }
        for (text, expected) in
            [("event=nope", Some("nope")), ("type=pod", Some("pod")), ("event=died", None), ("container=x", None)]
        {
            assert_eq!(text.parse::<Filter>().unwrap().unknown_word(), expected);
        }
    }
}
