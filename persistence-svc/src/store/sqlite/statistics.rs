//! Statistics in SQLite.

use async_trait::async_trait;
use sqlx::AssertSqlSafe;
use switchboard_bus::statistics::{BUCKETS, Latency};

use super::SqliteStore;
use super::follow::moved;
use crate::store::columns::Columns as _;
use crate::store::statistics::sql::{self, Fresh, statistics};
use crate::store::statistics::{
    Counted, FORGOTTEN, Forgotten, Kind, MAX_POINTS, MAX_TOP, Period, Point, Points, Report, Span,
    StatisticsStore,
};
use crate::store::{Step, StoreError, number, unsigned};

statistics!(
    SqliteStore,
    moved,
    "(SELECT value ->> 'period' AS period, value ->> 'at' AS at, value ->> 'namespace' AS namespace,
          value ->> 'kind' AS kind, value ->> 'hash' AS hash, value ->> 'channel' AS channel,
          value ->> 'messages' AS messages, value ->> 'bytes' AS bytes, value ->> 'users' AS users,
          value ->> 'channels' AS channels
      FROM json_each($1)) AS given",
    format!(
        "(SELECT value ->> 'period' AS period, value ->> 'namespace' AS namespace, value ->> 'at' AS at, {}
          FROM json_each($1)) AS given",
        sql::each_bucket(|column| format!("value ->> '{column}' AS {column}"))
    ),
    "namespace IN (SELECT value FROM json_each($4))"
);
