//! Statistics in PostgreSQL.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use switchboard_bus::statistics::{BUCKETS, Latency};

use super::PostgresStore;
use super::follow::moved;
use crate::store::columns::Columns as _;
use crate::store::statistics::sql::{self, Fresh, statistics};
use crate::store::statistics::{
    Counted, FORGOTTEN, Forgotten, Kind, MAX_POINTS, MAX_TOP, Period, Point, Points, Report, Span,
    StatisticsStore,
};
use crate::store::{Step, StoreError, number, unsigned};

statistics!(
    PostgresStore,
    moved,
    "json_to_recordset($1::json) AS given (period bigint, at bigint, namespace text, kind bigint, hash bigint,
         channel text, messages bigint, bytes bigint, users bigint, channels bigint)",
    format!(
        "json_to_recordset($1::json) AS given (period bigint, namespace text, at bigint, {})",
        sql::each_bucket(|column| format!("{column} bigint"))
    ),
    "namespace IN (SELECT json_array_elements_text($4::json))"
);
