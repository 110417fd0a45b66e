//! Outcomes as the columns of a table, under the paths of their fields in the schema.
//!
//! The columns are filled by serialisation, so that a new field of an outcome is a new column without a change here.

use std::collections::HashMap;
use std::fmt::{self, Display};

use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyString};
use serde::Serialize;
use serde::ser::{self, Serializer};

use crate::bytes;

/// The place of a word in the list of words.
type Code = usize;

enum Column {
    /// Numbers; NaN where there is none.
    Numbers(Vec<f64>),
    Flags(Vec<Option<bool>>),
    Words(Vec<Option<Code>>),
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Flags(values) => values.len(),
            Self::Words(values) => values.len(),
        }
    }

    /// Fills the column up to a number of rows.
    fn fill(&mut self, rows: usize) {
        match self {
            Self::Numbers(values) => values.resize(rows, f64::NAN),
            Self::Flags(values) => values.resize(rows, None),
            Self::Words(values) => values.resize(rows, None),
        }
    }
}

/// A table that grows by whole rows.
#[derive(Default)]
pub(crate) struct Columns {
    places: HashMap<String, usize>,
    columns: Vec<(String, Column)>,
    words: Vec<String>,
    rows: usize,
    /// The path of the field that is being written.
    path: String,
    /// The place of the column after the last one that was written to. Rows mostly have the same fields in the same order.
    likely: usize,
}

impl Columns {
    /// Adds a row with the fields of a value; an empty row without a value.
    pub(crate) fn push(&mut self, value: Option<&impl Serialize>) -> Result<(), Unwritten> {
        self.path.clear();
        self.likely = 0;
        let written = value.map_or(Ok(()), |value| value.serialize(&mut *self));
        self.rows += 1;
        let rows = self.rows;
        self.columns.iter_mut().for_each(|(_, column)| column.fill(rows));
        written
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers as bytes, flags and words as lists, by path.
    pub(crate) fn dictionary<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let words: Vec<_> = self.words.iter().map(|word| PyString::new(py, word)).collect();
        let dictionary = PyDict::new(py);
        for (path, column) in &self.columns {
            match column {
                Column::Numbers(values) => dictionary.set_item(path, bytes::array(py, values))?,
                Column::Flags(values) => dictionary.set_item(path, PyList::new(py, values)?)?,
                Column::Words(values) => {
                    let values = values.iter().map(|code| code.and_then(|code| words.get(code)));
                    dictionary.set_item(path, PyList::new(py, values.collect::<Vec<_>>())?)?;
                }
            }
        }
        Ok(dictionary)
    }

    /// The column at the path, up to the row that is being written.
    fn column(&mut self, empty: Column) -> &mut Column {
        let as_before = self.columns.get(self.likely).is_some_and(|(path, _)| *path == self.path);
        let known = if as_before { Some(self.likely) } else { self.places.get(&self.path).copied() };
        let place = match known {
            Some(place) => place,
            None => {
                self.places.insert(self.path.clone(), self.columns.len());
                self.columns.push((self.path.clone(), empty));
                self.columns.len() - 1
            }
        };
        self.likely = place + 1;
        let column = &mut self.columns[place].1;
        if column.len() < self.rows {
            column.fill(self.rows);
        }
        column
    }

    fn number(&mut self, value: f64) {
        if let Column::Numbers(values) = self.column(Column::Numbers(Vec::new())) {
            values.push(value);
        }
    }

    /// Writes the value of a field below the present path.
    fn below(&mut self, name: &str, value: &(impl Serialize + ?Sized)) -> Result<(), Unwritten> {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        let written = value.serialize(&mut *self);
        self.path.truncate(length);
        written
    }
}

/// The reason why a value has no columns.
#[derive(Debug)]
pub(crate) struct Unwritten(String);

impl Display for Unwritten {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Unwritten {}

impl ser::Error for Unwritten {
    fn custom<T: Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// The entries of a list or an object.
pub(crate) struct Entries<'a> {
    columns: &'a mut Columns,
    next: usize,
    key: String,
}

impl<'a> Entries<'a> {
    fn new(columns: &'a mut Columns) -> Self {
        Self { columns, next: 0, key: String::new() }
    }

    fn element(&mut self, value: &(impl Serialize + ?Sized)) -> Result<(), Unwritten> {
        self.next += 1;
        self.columns.below(&(self.next - 1).to_string(), value)
    }
}

impl<'a> Serializer for &'a mut Columns {
    type Ok = ();
    type Error = Unwritten;
    type SerializeSeq = Entries<'a>;
    type SerializeTuple = Entries<'a>;
    type SerializeTupleStruct = Entries<'a>;
    type SerializeTupleVariant = ser::Impossible<(), Unwritten>;
    type SerializeMap = Entries<'a>;
    type SerializeStruct = Entries<'a>;
    type SerializeStructVariant = ser::Impossible<(), Unwritten>;

    fn serialize_bool(self, value: bool) -> Result<(), Unwritten> {
        if let Column::Flags(values) = self.column(Column::Flags(Vec::new())) {
            values.push(Some(value));
        }
        Ok(())
    }

    /// A number that is not finite is absent, as it is in JSON.
    fn serialize_f64(self, value: f64) -> Result<(), Unwritten> {
        self.number(if value.is_finite() { value } else { f64::NAN });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Unwritten> {
        self.serialize_f64(value.into())
    }

    fn serialize_i8(self, value: i8) -> Result<(), Unwritten> {
        self.serialize_f64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), Unwritten> {
        self.serialize_f64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), Unwritten> {
        self.serialize_f64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), Unwritten> {
        self.serialize_f64(value as f64)
    }

    fn serialize_u8(self, value: u8) -> Result<(), Unwritten> {
        self.serialize_f64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), Unwritten> {
        self.serialize_f64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), Unwritten> {
        self.serialize_f64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), Unwritten> {
        self.serialize_f64(value as f64)
    }

    fn serialize_char(self, value: char) -> Result<(), Unwritten> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Unwritten> {
        let code = self.words.iter().position(|word| word == value).unwrap_or_else(|| {
            self.words.push(value.to_owned());
            self.words.len() - 1
        });
        if let Column::Words(values) = self.column(Column::Words(Vec::new())) {
            values.push(Some(code));
        }
        Ok(())
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Unwritten> {
        Err(ser::Error::custom("bytes have no column"))
    }

    /// What is absent leaves its column empty.
    fn serialize_none(self) -> Result<(), Unwritten> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Unwritten> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Unwritten> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Unwritten> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), Unwritten> {
        self.serialize_str(name)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Unwritten> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unwritten> {
        self.below(name, value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Entries<'a>, Unwritten> {
        Ok(Entries::new(self))
    }

    fn serialize_tuple(self, _: usize) -> Result<Entries<'a>, Unwritten> {
        Ok(Entries::new(self))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Entries<'a>, Unwritten> {
        Ok(Entries::new(self))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, Unwritten> {
        Err(ser::Error::custom(name))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Entries<'a>, Unwritten> {
        Ok(Entries::new(self))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Entries<'a>, Unwritten> {
        Ok(Entries::new(self))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, Unwritten> {
        Err(ser::Error::custom(name))
    }
}

impl ser::SerializeSeq for Entries<'_> {
    type Ok = ();
    type Error = Unwritten;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritten> {
        self.element(value)
    }

    fn end(self) -> Result<(), Unwritten> {
        Ok(())
    }
}

impl ser::SerializeTuple for Entries<'_> {
    type Ok = ();
    type Error = Unwritten;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritten> {
        self.element(value)
    }

    fn end(self) -> Result<(), Unwritten> {
        Ok(())
    }
}

impl ser::SerializeTupleStruct for Entries<'_> {
    type Ok = ();
    type Error = Unwritten;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritten> {
        self.element(value)
    }

    fn end(self) -> Result<(), Unwritten> {
        Ok(())
    }
}

impl ser::SerializeMap for Entries<'_> {
    type Ok = ();
    type Error = Unwritten;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Unwritten> {
        let key = serde_json::to_value(key).map_err(ser::Error::custom)?;
        key.as_str().unwrap_or_default().clone_into(&mut self.key);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Unwritten> {
        let key = std::mem::take(&mut self.key);
        self.columns.below(&key, value)
    }

    fn end(self) -> Result<(), Unwritten> {
        Ok(())
    }
}

impl ser::SerializeStruct for Entries<'_> {
    type Ok = ();
    type Error = Unwritten;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Unwritten> {
        self.columns.below(name, value)
    }

    fn end(self) -> Result<(), Unwritten> {
        Ok(())
    }
}
