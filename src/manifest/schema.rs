//! The JSON schema, made from the table of keys.
//!
//! It accepts a main file that the decoder accepts, and rejects what is wrong with one value or one
//! table. What needs more (references, overlaps, syntax) only the decoder finds. Tables in a
//! sandbox may be completed by a template, so that the schema does not ask for their required keys.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::keys::{ROOT, Rule, TableDef, Text, Ty};

/// A string with a variable in it: what it becomes is not known.
const VARIABLE: &str = r"\$";

/// The schema, as pretty JSON with a final newline.
pub fn json_schema() -> String {
    let mut schema = Schema { definitions: BTreeMap::new() };
    let mut root = schema.object(&ROOT, true);
    let definitions: Map<String, Value> = schema.definitions.into_iter().collect();
    if let Some(root) = root.as_object_mut() {
        root.shift_insert(0, "$schema".into(), json!("http://json-schema.org/draft-07/schema#"));
        root.shift_insert(1, "title".into(), json!("Sandboxfile"));
        root.insert("definitions".into(), Value::Object(definitions));
    }
    let mut text = serde_json::to_string_pretty(&root).unwrap_or_default();
    text.push('\n');
    text
}

struct Schema {
    definitions: BTreeMap<String, Value>,
}

impl Schema {
    /// `whole` when nothing is merged into a table here.
    fn of(&mut self, ty: &Ty, whole: bool) -> Value {
        match ty {
            Ty::Text(form) => text(form),
            Ty::Word(words) => any(json!({ "enum": words }), variable()),
            Ty::Int(min, max) => {
                let range = json!({ "type": "integer", "minimum": min, "maximum": max });
                any(range, variable())
            }
            Ty::Bool => any(json!({ "type": "boolean" }), variable()),
            Ty::True => any(json!({ "const": true }), variable()),
            Ty::List(item, min) => {
                let items = self.of(item, whole);
                if *min == 0 {
                    json!({ "type": "array", "items": items })
                } else {
                    json!({ "type": "array", "items": items, "minItems": min })
                }
            }
            Ty::Map(keys, value) => {
                let values = self.of(value, whole);
                json!({
                    "type": "object",
                    "propertyNames": constraints(keys),
                    "additionalProperties": values,
                })
            }
            Ty::Table(def) => self.reference(def, whole),
            Ty::Any(types) => {
                let all: Vec<_> = types.iter().map(|ty| self.of(ty, whole)).collect();
                json!({ "anyOf": all })
            }
        }
    }

    fn reference(&mut self, def: &TableDef, whole: bool) -> Value {
        let whole = (whole || def.whole) && !def.is_sandbox();
        let part = if whole || def.whole || def.rules.is_empty() { "" } else { " (part)" };
        let name = format!("{}{part}", def.name.trim_start_matches("a ").trim_start_matches("an "));
        let pointer = name.replace(' ', "-").replace(['(', ')'], "");
        if !self.definitions.contains_key(&pointer) {
            // Taken before the table's own keys are looked at, so that recursion would end.
            self.definitions.insert(pointer.clone(), Value::Null);
            let object = self.object(def, whole);
            self.definitions.insert(pointer.clone(), object);
        }
        json!({ "$ref": format!("#/definitions/{pointer}") })
    }

    fn object(&mut self, def: &TableDef, whole: bool) -> Value {
        let mut properties = Map::new();
        for key in def.keys {
            let mut value = self.of(&key.ty, whole);
            if let Some(object) = value.as_object_mut() {
                // Siblings of a reference are ignored in this draft.
                if let Some(reference) = object.remove("$ref") {
                    object.insert("allOf".into(), json!([{ "$ref": reference }]));
                }
                object.insert("description".into(), json!(key.doc));
            }
            properties.insert(key.name.into(), value);
        }
        let mut object = Map::new();
        object.insert("description".into(), json!(def.doc));
        object.insert("type".into(), json!("object"));
        object.insert("properties".into(), Value::Object(properties));
        object.insert("additionalProperties".into(), json!(false));
        let all: Vec<Value> = def.rules.iter().flat_map(|rule| constraint(rule, whole)).collect();
        if !all.is_empty() {
            object.insert("allOf".into(), Value::Array(all));
        }
        Value::Object(object)
    }
}

fn constraint(rule: &Rule, whole: bool) -> Vec<Value> {
    let required = |key: &&str| json!({ "required": [key] });
    let one = |keys: &[&str]| json!({ "anyOf": keys.iter().map(required).collect::<Vec<_>>() });
    let exclusive = |keys: &[&'static str]| {
        let mut all = Vec::new();
        for (at, first) in keys.iter().enumerate() {
            for second in &keys[at + 1..] {
                all.push(json!({ "not": { "required": [first, second] } }));
            }
        }
        all
    };
    match rule {
        Rule::AtMostOne(keys) => exclusive(keys),
        Rule::ExactlyOne(keys) => {
            let mut all = exclusive(keys);
            all.extend(whole.then(|| one(keys)));
            all
        }
        _ if !whole => Vec::new(),
        Rule::Required(key) => vec![required(key)],
        Rule::AnyOf(keys) => vec![one(keys)],
        Rule::Together(first, second) => {
            vec![json!({ "dependencies": { *first: [second], *second: [first] } })]
        }
        Rule::Needs(key, needed) => vec![json!({ "dependencies": { *key: [needed] } })],
    }
}

fn variable() -> Value {
    json!({ "type": "string", "pattern": VARIABLE })
}

fn any(value: Value, other: Value) -> Value {
    json!({ "anyOf": [value, other] })
}

fn text(form: &Text) -> Value {
    let mut object = constraints(form);
    let is_free = object.as_object().is_none_or(Map::is_empty);
    if let Some(object) = object.as_object_mut() {
        object.insert("type".into(), json!("string"));
    }
    if is_free { object } else { any(object, variable()) }
}

/// The form without its type, as it also stands for keys.
fn constraints(form: &Text) -> Value {
    let mut object = Map::new();
    if let Some(pattern) = form.pattern {
        object.insert("pattern".into(), json!(pattern));
    }
    if let Some(reject) = form.reject {
        object.insert("not".into(), json!({ "pattern": reject }));
    }
    if let Some(max) = form.max_len {
        object.insert("maxLength".into(), json!(max));
    }
    Value::Object(object)
}
