//! Mathematical functions: the SQLite that is built in has none of them.

use rusqlite::Connection;

use super::PURE;

type Unary = (&'static str, fn(f64) -> f64);

/// Names as in osquery and as in SQLite's own optional mathematics.
const UNARY: [Unary; 20] = [
    ("sqrt", f64::sqrt),
    ("log", f64::ln),
    ("ln", f64::ln),
    ("log10", f64::log10),
    ("log2", f64::log2),
    ("exp", f64::exp),
    ("ceil", f64::ceil),
    ("ceiling", f64::ceil),
    ("floor", f64::floor),
    ("trunc", f64::trunc),
    ("sin", f64::sin),
    ("cos", f64::cos),
    ("tan", f64::tan),
    ("cot", |angle| 1.0 / angle.tan()),
    ("asin", f64::asin),
    ("acos", f64::acos),
    ("atan", f64::atan),
    ("degrees", f64::to_degrees),
    ("radians", f64::to_radians),
    ("square", |number| number * number),
];

pub(super) fn register(connection: &Connection) -> rusqlite::Result<()> {
    for (name, compute) in UNARY {
        connection.create_scalar_function(name, 1, PURE, move |context| {
            Ok(context
                .get::<Option<f64>>(0)?
                .map(compute)
                .filter(|result| result.is_finite()))
        })?;
    }
    for name in ["power", "pow"] {
        connection.create_scalar_function(name, 2, PURE, |context| {
            let base: Option<f64> = context.get(0)?;
            let exponent: Option<f64> = context.get(1)?;
            Ok(base
                .zip(exponent)
                .map(|(base, exponent)| base.powf(exponent))
                .filter(|result| result.is_finite()))
        })?;
    }
    connection.create_scalar_function("pi", 0, PURE, |_| Ok(std::f64::consts::PI))
}
