-- A store as Rung wrote it at revision 0003: a climb with a rung's items, a file, a job with its event, a key.
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE bases (
	digest VARCHAR(128) NOT NULL, 
	name TEXT NOT NULL, 
	spec TEXT NOT NULL, 
	licence TEXT NOT NULL, 
	licence_class VARCHAR(32) NOT NULL, 
	organisation TEXT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (digest)
);
INSERT INTO "bases" VALUES('bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','tiny','bases/tiny','apache-2.0','permissive','','2026-11-28T08:33:28.361511Z');
CREATE TABLE climbs (
	id VARCHAR(128) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	task JSON NOT NULL, 
	data VARCHAR(128), 
	base VARCHAR(128), 
	bar TEXT, 
	settings JSON NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	verdict JSON NOT NULL, 
	host TEXT NOT NULL, 
	pid BIGINT NOT NULL, 
	started VARCHAR(32) NOT NULL, 
	finished VARCHAR(32), 
	heartbeat VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(data) REFERENCES datasets (digest), 
	FOREIGN KEY(base) REFERENCES bases (digest)
);
INSERT INTO "climbs" VALUES('headlines-20261128-0833-905e','headlines','{"kind": "labels", "metric": "accuracy"}','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb',NULL,'{"given": {}, "knobs": {"requests": 100}}','interrupted','{}','host',23709,'2026-11-28T08:33:28.362164Z','2026-11-28T08:33:28.382882Z','2026-11-28T08:33:28.382860Z');
CREATE TABLE datasets (
	digest VARCHAR(128) NOT NULL, 
	name TEXT NOT NULL, 
	source TEXT NOT NULL, 
	licence TEXT NOT NULL, 
	licence_class VARCHAR(32) NOT NULL, 
	rows BIGINT NOT NULL, 
	format VARCHAR(64) NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (digest)
);
INSERT INTO "datasets" VALUES('dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd','rows','rows.jsonl','unknown','unknown',2,'labels','2026-11-28T08:33:28.358412Z');
CREATE TABLE evaluations (
	id INTEGER NOT NULL, 
	model VARCHAR(64), 
	base VARCHAR(128), 
	dataset VARCHAR(128), 
	metric VARCHAR(64) NOT NULL, 
	value DOUBLE NOT NULL, 
	low DOUBLE, 
	high DOUBLE, 
	n BIGINT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT ck_evaluations_subject CHECK ((model IS NULL) <> (base IS NULL)), 
	FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE, 
	FOREIGN KEY(base) REFERENCES bases (digest), 
	FOREIGN KEY(dataset) REFERENCES datasets (digest)
);
CREATE TABLE files (
	id VARCHAR(64) NOT NULL, 
	name TEXT NOT NULL, 
	purpose VARCHAR(32) NOT NULL, 
	stored VARCHAR(96) NOT NULL, 
	bytes BIGINT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	expires VARCHAR(32), 
	PRIMARY KEY (id)
);
INSERT INTO "files" VALUES('file-000000000000000000000000','train.jsonl','fine-tune','file-000000000000000000000000.jsonl',7,'2026-11-28T08:33:28.386832Z',NULL);
CREATE TABLE job_checkpoints (
	id VARCHAR(64) NOT NULL, 
	job VARCHAR(64) NOT NULL, 
	step BIGINT NOT NULL, 
	model TEXT NOT NULL, 
	folder TEXT NOT NULL, 
	metrics JSON NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job) REFERENCES jobs (id) ON DELETE CASCADE
);
CREATE TABLE job_events (
	id INTEGER NOT NULL, 
	job VARCHAR(64) NOT NULL, 
	level VARCHAR(8) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	message TEXT NOT NULL, 
	data JSON NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(job) REFERENCES jobs (id) ON DELETE CASCADE
);
INSERT INTO "job_events" VALUES(1,'ftjob-1111111111111111','info','message','Created fine-tuning job: ftjob-1111111111111111','{}','2026-11-28T08:33:28.392264Z');
CREATE TABLE jobs (
	id VARCHAR(64) NOT NULL, 
	status VARCHAR(24) NOT NULL, 
	model TEXT NOT NULL, 
	base TEXT NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	suffix VARCHAR(64), 
	training_file VARCHAR(64) NOT NULL, 
	validation_file VARCHAR(64), 
	result_file VARCHAR(64), 
	method JSON NOT NULL, 
	settings JSON NOT NULL, 
	hyperparameters JSON NOT NULL, 
	notes JSON NOT NULL, 
	seed BIGINT NOT NULL, 
	fine_tuned_model TEXT, 
	trained_tokens BIGINT, 
	error JSON NOT NULL, 
	made BOOLEAN NOT NULL, 
	host TEXT NOT NULL, 
	pid BIGINT NOT NULL, 
	attempts INTEGER NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	finished VARCHAR(32), 
	estimate VARCHAR(32), 
	PRIMARY KEY (id)
);
INSERT INTO "jobs" VALUES('ftjob-1111111111111111','queued','tiny','bases/tiny','ft-111',NULL,'file-000000000000000000000000',NULL,NULL,'{}','{"method": "lora"}','{"batch_size": 4, "learning_rate_multiplier": 1.0, "n_epochs": 1}','{}',0,NULL,NULL,'{}',0,'',0,0,'2026-11-28T08:33:28.390905Z',NULL,NULL);
CREATE TABLE keys (
	id VARCHAR(64) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	digest VARCHAR(64) NOT NULL, 
	scopes VARCHAR(64) NOT NULL, 
	requests_per_minute INTEGER, 
	tokens_per_minute BIGINT, 
	quota BIGINT, 
	used BIGINT NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	last_used VARCHAR(32), 
	revoked VARCHAR(32), 
	PRIMARY KEY (id), 
	UNIQUE (digest)
);
INSERT INTO "keys" VALUES('key-4b3390b0','bot','fdc961031f60dd18eeefac08618be946b15706026b0fbc175a6c3cc6ea4db80d','ask,train,admin',NULL,NULL,NULL,5,'2026-11-28T08:33:28.402967Z','2026-11-28T08:33:28.407049Z',NULL);
CREATE TABLE model_datasets (
	model VARCHAR(64) NOT NULL, 
	dataset VARCHAR(128) NOT NULL, 
	place INTEGER NOT NULL, 
	PRIMARY KEY (model, dataset), 
	FOREIGN KEY(model) REFERENCES models (name) ON DELETE CASCADE, 
	FOREIGN KEY(dataset) REFERENCES datasets (digest)
);
CREATE TABLE models (
	name VARCHAR(64) NOT NULL, 
	method VARCHAR(64) NOT NULL, 
	base VARCHAR(128) NOT NULL, 
	parent VARCHAR(64), 
	run VARCHAR(128), 
	folder TEXT NOT NULL, 
	licence TEXT, 
	licence_class VARCHAR(32) NOT NULL, 
	metrics JSON NOT NULL, 
	cost JSON NOT NULL, 
	created VARCHAR(32) NOT NULL, 
	PRIMARY KEY (name), 
	FOREIGN KEY(base) REFERENCES bases (digest), 
	FOREIGN KEY(parent) REFERENCES models (name), 
	FOREIGN KEY(run) REFERENCES runs (id)
);
CREATE TABLE rungs (
	climb VARCHAR(128) NOT NULL, 
	"key" VARCHAR(128) NOT NULL, 
	place INTEGER NOT NULL, 
	method VARCHAR(64) NOT NULL, 
	settings JSON NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	reason TEXT, 
	run VARCHAR(128), 
	model VARCHAR(64), 
	predicted JSON NOT NULL, 
	metrics JSON NOT NULL, 
	cost JSON NOT NULL, 
	trials JSON NOT NULL, 
	items JSON NOT NULL, 
	PRIMARY KEY (climb, "key"), 
	FOREIGN KEY(climb) REFERENCES climbs (id) ON DELETE CASCADE
);
INSERT INTO "rungs" VALUES('headlines-20261128-0833-905e','base',0,'base','{}','succeeded',NULL,NULL,NULL,'{}','{"validation": {"value": 0.5}}','{}','{}','{"validation": {"answers": ["a", "b"], "worth": [1.0, 0.0]}}');
INSERT INTO "rungs" VALUES('headlines-20261128-0833-905e','lora',1,'lora','{}','queued',NULL,NULL,NULL,'{}','{}','{}','{}','{}');
CREATE TABLE runs (
	id VARCHAR(128) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	parent VARCHAR(64), 
	method VARCHAR(64) NOT NULL, 
	objective VARCHAR(64) NOT NULL, 
	status VARCHAR(16) NOT NULL, 
	config JSON NOT NULL, 
	base VARCHAR(128), 
	data VARCHAR(128), 
	metrics JSON NOT NULL, 
	cost JSON NOT NULL, 
	error TEXT, 
	host TEXT NOT NULL, 
	pid BIGINT NOT NULL, 
	started VARCHAR(32) NOT NULL, 
	finished VARCHAR(32), 
	heartbeat VARCHAR(32) NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(base) REFERENCES bases (digest), 
	FOREIGN KEY(data) REFERENCES datasets (digest)
);
CREATE INDEX ix_runs_model ON runs (model);
CREATE INDEX ix_runs_started ON runs (started);
CREATE INDEX ix_runs_status ON runs (status);
CREATE INDEX ix_models_parent ON models (parent);
CREATE INDEX ix_evaluations_base ON evaluations (base);
CREATE INDEX ix_evaluations_model ON evaluations (model);
CREATE INDEX ix_climbs_started ON climbs (started);
CREATE INDEX ix_climbs_data ON climbs (data);
CREATE INDEX ix_files_created ON files (created);
CREATE INDEX ix_jobs_status ON jobs (status);
CREATE INDEX ix_jobs_created ON jobs (created);
CREATE INDEX ix_job_events_job ON job_events (job);
CREATE INDEX ix_job_checkpoints_job ON job_checkpoints (job);
COMMIT;
