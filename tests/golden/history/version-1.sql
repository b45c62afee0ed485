PRAGMA application_id = 1819045234;
PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE conversations (
            id TEXT PRIMARY KEY NOT NULL, name TEXT COLLATE NOCASE UNIQUE, model TEXT NOT NULL, resolved TEXT,
            system TEXT, settings TEXT NOT NULL, created TEXT NOT NULL, updated TEXT NOT NULL);
INSERT INTO "conversations" VALUES('lusab-babad','Trip','qwen3:8b','Qwen/Qwen3-8B-GGUF:Q4_K_M','Be brief.','{"temperature": 0.2, "think": true}','2026-05-01T12:30:00.123456+00:00','2026-05-01T12:30:00.123456+00:00');
CREATE TABLE turns (
            id INTEGER PRIMARY KEY, conversation TEXT NOT NULL REFERENCES conversations ON DELETE CASCADE,
            position INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, thoughts TEXT NOT NULL,
            images TEXT NOT NULL, model TEXT, finish_reason TEXT, usage TEXT NOT NULL, at TEXT NOT NULL,
            UNIQUE (conversation, position));
INSERT INTO "turns" VALUES(1,'lusab-babad',0,'user','Where to?','','["map.png"]',NULL,NULL,'{}','2026-05-01T12:30:00.123456+00:00');
INSERT INTO "turns" VALUES(2,'lusab-babad',1,'assistant','Rome.','Hm.','[]','guide','stop','{"prompt_tokens": 9, "seed": null}','2026-05-01T12:30:00.123456+00:00');
CREATE INDEX conversations_updated ON conversations (updated);
COMMIT;
