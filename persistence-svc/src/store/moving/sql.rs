//! What both databases do by the same statements, so that they stand here once; a macro makes each backend's functions of them.

/// `$store`: the store, which has `changing`, a transaction that writes; `put_head` and `standing_of` are its backend's.
macro_rules! moving {
    ($store:ty) => {
        const ROWS: i64 = MAX_MOVED as i64;

        #[async_trait]
        impl MoveStore for $store {
            async fn all_heads(&self, after: &str) -> Result<Vec<ChannelHead>, StoreError> {
                self.asking(async {
                    let rows = sqlx::query(
                        r#"SELECT name, log, "offset", log_time FROM channels WHERE name > $1 ORDER BY name LIMIT $2"#,
                    )
                    .bind(after)
                    .bind(ROWS)
                    .fetch_all(self.reader())
                    .await?;
                    rows.iter().map(columns::channel_head).collect()
                })
                .await
            }

            async fn all_hidden(&self, after: &str) -> Result<Vec<(String, Place)>, StoreError> {
                self.asking(async {
                    let rows = sqlx::query(
                        r#"SELECT channel, log, "offset" FROM hidden WHERE channel > $1 ORDER BY channel LIMIT $2"#,
                    )
                    .bind(after)
                    .bind(ROWS)
                    .fetch_all(self.reader())
                    .await?;
                    rows.iter().map(columns::head).collect()
                })
                .await
            }

            async fn all_members(&self, after: (&str, &str)) -> Result<Vec<MemberRow>, StoreError> {
                self.asking(async {
                    let rows = sqlx::query(
                        r#"SELECT channel, user_name, role, log, "offset", since_log, since_offset FROM members
                           WHERE (channel, user_name) > ($1, $2) ORDER BY channel, user_name LIMIT $3"#,
                    )
                    .bind(after.0)
                    .bind(after.1)
                    .bind(ROWS)
                    .fetch_all(self.reader())
                    .await?;
                    rows.iter().map(member_row).collect()
                })
                .await
            }

            async fn all_receipts(&self, after: (&str, &str)) -> Result<Vec<Mark>, StoreError> {
                self.asking(async {
                    let rows = sqlx::query(
                        "SELECT channel, user_name, delivered_log, delivered_offset, read_log, read_offset FROM receipts
                         WHERE (channel, user_name) > ($1, $2) ORDER BY channel, user_name LIMIT $3",
                    )
                    .bind(after.0)
                    .bind(after.1)
                    .bind(ROWS)
                    .fetch_all(self.reader())
                    .await?;
                    rows.iter().map(mark).collect()
                })
                .await
            }

            async fn take_heads(&self, heads: &[ChannelHead], without: &HashSet<String>) -> Result<(), StoreError> {
                too_much(heads.len(), MAX_MOVED)?;
                self.asking(async {
                    let mut transaction = self.changing().await?;
                    for head in heads {
                        put_head(&mut transaction, &head.channel, head.place, head.time_us).await?;
                        for user in named(&head.channel).filter(|user| !without.contains(*user)) {
                            sqlx::query(
                                "INSERT INTO conversations (user_name, channel) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                            )
                            .bind(user)
                            .bind(head.channel.as_str())
                            .execute(&mut *transaction)
                            .await?;
                        }
                    }
                    transaction.commit().await?;
                    Ok(())
                })
                .await
            }

            async fn take_members(&self, members: &[MemberRow]) -> Result<(), StoreError> {
                too_much(members.len(), MAX_MOVED)?;
                self.asking(async {
                    let mut newest: BTreeMap<&str, Place> = BTreeMap::new();
                    for member in members {
                        let place = newest.entry(&member.channel).or_insert(member.place);
                        *place = member.place.max(*place);
                    }
                    let mut transaction = self.changing().await?;
                    for (channel, newest) in newest {
                        // Before its members: whoever writes an event of the channel waits here.
                        let before = standing_of(&mut transaction, channel).await?;
                        for member in members.iter().filter(|member| member.channel == channel) {
                            sqlx::query(
                                r#"INSERT INTO members AS old (channel, user_name, role, log, "offset", since_log, since_offset)
                                   VALUES ($1, $2, $3, $4, $5, $6, $7)
                                   ON CONFLICT (channel, user_name) DO UPDATE
                                   SET role = excluded.role, log = excluded.log, "offset" = excluded."offset",
                                       since_log = excluded.since_log, since_offset = excluded.since_offset
                                   WHERE (old.log, old."offset") < (excluded.log, excluded."offset")"#,
                            )
                            .bind(channel)
                            .bind(member.user.as_str())
                            .bind(role_number(member.role))
                            .bind(log_number(member.place.log))
                            .bind(number(member.place.offset.get()))
                            .bind(log_number(member.since.log))
                            .bind(number(member.since.offset.get()))
                            .execute(&mut *transaction)
                            .await?;
                        }
                        let newest = numbers(before.changed.max(Some(newest)));
                        sqlx::query(
                            r#"INSERT INTO memberships (channel, log, "offset", members, owners)
                               SELECT $1, $2, $3, count(*) FILTER (WHERE role > 0), count(*) FILTER (WHERE role = 2)
                               FROM members WHERE channel = $1
                               ON CONFLICT (channel) DO UPDATE
                               SET log = excluded.log, "offset" = excluded."offset", members = excluded.members,
                                   owners = excluded.owners"#,
                        )
                        .bind(channel)
                        .bind(newest.0)
                        .bind(newest.1)
                        .execute(&mut *transaction)
                        .await?;
                    }
                    transaction.commit().await?;
                    Ok(())
                })
                .await
            }
        }
    };
}

pub(in crate::store) use moving;
