SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET default_tablespace = '';
SET default_table_access_method = heap;
CREATE TABLE public.agents (
    id integer NOT NULL,
    number text NOT NULL,
    name text NOT NULL,
    language text NOT NULL,
    pin_hash text,
    origin text NOT NULL,
    archived_at double precision,
    logoff_at text,
    login text,
    password_hash text,
    enabled boolean DEFAULT true NOT NULL
);
CREATE SEQUENCE public.agents_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.agents_id_seq OWNED BY public.agents.id;
CREATE TABLE public.deliveries (
    sink text NOT NULL,
    event bigint NOT NULL,
    agent text NOT NULL,
    due_at double precision DEFAULT 0 NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    error text,
    parked_at double precision,
    leased_until double precision DEFAULT 0 NOT NULL,
    leased_by text
);
CREATE TABLE public.devices_in_use (
    interface text NOT NULL,
    agent_id integer NOT NULL
);
CREATE TABLE public.events (
    seq bigint NOT NULL,
    id text NOT NULL,
    type text NOT NULL,
    agent text NOT NULL,
    extension text NOT NULL,
    context text NOT NULL,
    queues text NOT NULL,
    reason text NOT NULL,
    source text NOT NULL,
    actor text NOT NULL,
    occurred_at double precision NOT NULL,
    session_seconds integer NOT NULL,
    asterisk text DEFAULT ''::text NOT NULL,
    in_part boolean DEFAULT false NOT NULL,
    device_type text DEFAULT 'local'::text NOT NULL
);
CREATE SEQUENCE public.events_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.events_seq_seq OWNED BY public.events.seq;
CREATE TABLE public.hook_attempts (
    id bigint NOT NULL,
    hook integer NOT NULL,
    event_id text NOT NULL,
    event_type text NOT NULL,
    at double precision NOT NULL,
    number integer NOT NULL,
    status integer,
    error text NOT NULL,
    seconds double precision NOT NULL,
    outcome text NOT NULL
);
CREATE SEQUENCE public.hook_attempts_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.hook_attempts_id_seq OWNED BY public.hook_attempts.id;
CREATE TABLE public.hook_deliveries (
    hook integer NOT NULL,
    event bigint NOT NULL,
    due_at double precision DEFAULT 0 NOT NULL,
    attempts integer DEFAULT 0 NOT NULL,
    error text,
    parked_at double precision,
    leased_until double precision DEFAULT 0 NOT NULL,
    leased_by text
);
CREATE TABLE public.hooks (
    id integer NOT NULL,
    client text NOT NULL,
    agent_id integer NOT NULL,
    agent_type text NOT NULL,
    event_type text NOT NULL,
    method text NOT NULL,
    url text NOT NULL,
    content_type text NOT NULL,
    created_at double precision NOT NULL
);
CREATE SEQUENCE public.hooks_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.hooks_id_seq OWNED BY public.hooks.id;
CREATE TABLE public.intents (
    agent_id integer NOT NULL,
    command_id text NOT NULL,
    command text NOT NULL,
    decided_at double precision NOT NULL,
    owner text DEFAULT ''::text NOT NULL,
    owned_at double precision DEFAULT 0 NOT NULL
);
CREATE TABLE public.login_sessions (
    id text NOT NULL,
    agent_id integer NOT NULL,
    extension text NOT NULL,
    context text NOT NULL,
    interface text NOT NULL,
    state_interface text NOT NULL,
    type text NOT NULL,
    since double precision NOT NULL,
    source text NOT NULL,
    planned text,
    ended_at double precision,
    ended_how text,
    ended_source text,
    asterisk text DEFAULT ''::text NOT NULL
);
CREATE TABLE public.memberships (
    agent_id integer NOT NULL,
    queue_id integer NOT NULL,
    penalty integer NOT NULL,
    joined boolean NOT NULL,
    archived_at double precision,
    origin text DEFAULT 'yaml'::text NOT NULL,
    own_penalty integer,
    own_paused boolean,
    own_reason text
);
CREATE TABLE public.notes (
    key text NOT NULL,
    value text NOT NULL
);
CREATE TABLE public.pause_reasons (
    id integer NOT NULL,
    code text NOT NULL,
    name text NOT NULL,
    description text NOT NULL,
    productive boolean NOT NULL,
    max_duration double precision,
    when_exceeded text,
    origin text NOT NULL,
    archived_at double precision,
    daily_budget double precision,
    type text DEFAULT ''::text NOT NULL
);
CREATE SEQUENCE public.pause_reasons_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.pause_reasons_id_seq OWNED BY public.pause_reasons.id;
CREATE TABLE public.pause_segments (
    id text NOT NULL,
    agent_id integer NOT NULL,
    code text NOT NULL,
    name text NOT NULL,
    since double precision NOT NULL,
    source text NOT NULL,
    ended_at double precision,
    ended_how text,
    ended_source text
);
CREATE TABLE public.pin_failures (
    id integer NOT NULL,
    key text NOT NULL,
    at double precision NOT NULL
);
CREATE SEQUENCE public.pin_failures_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.pin_failures_id_seq OWNED BY public.pin_failures.id;
CREATE TABLE public.queue_pauses (
    queue_id integer NOT NULL,
    code text NOT NULL,
    limit_duration double precision,
    automatic_unpause boolean NOT NULL,
    disable_unpause boolean NOT NULL
);
CREATE TABLE public.queues (
    id integer NOT NULL,
    number text NOT NULL,
    name text NOT NULL,
    origin text NOT NULL,
    archived_at double precision,
    call_center boolean DEFAULT true NOT NULL
);
CREATE SEQUENCE public.queues_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.queues_id_seq OWNED BY public.queues.id;
CREATE TABLE public.schema_migration (
    id integer NOT NULL,
    name character varying(255) NOT NULL,
    applied timestamp without time zone NOT NULL
);
CREATE SEQUENCE public.schema_migration_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.schema_migration_id_seq OWNED BY public.schema_migration.id;
ALTER TABLE ONLY public.agents ALTER COLUMN id SET DEFAULT nextval('public.agents_id_seq'::regclass);
ALTER TABLE ONLY public.events ALTER COLUMN seq SET DEFAULT nextval('public.events_seq_seq'::regclass);
ALTER TABLE ONLY public.hook_attempts ALTER COLUMN id SET DEFAULT nextval('public.hook_attempts_id_seq'::regclass);
ALTER TABLE ONLY public.hooks ALTER COLUMN id SET DEFAULT nextval('public.hooks_id_seq'::regclass);
ALTER TABLE ONLY public.pause_reasons ALTER COLUMN id SET DEFAULT nextval('public.pause_reasons_id_seq'::regclass);
ALTER TABLE ONLY public.pin_failures ALTER COLUMN id SET DEFAULT nextval('public.pin_failures_id_seq'::regclass);
ALTER TABLE ONLY public.queues ALTER COLUMN id SET DEFAULT nextval('public.queues_id_seq'::regclass);
ALTER TABLE ONLY public.schema_migration ALTER COLUMN id SET DEFAULT nextval('public.schema_migration_id_seq'::regclass);
INSERT INTO public.agents VALUES (1, '1001', 'Agent 0', 'en', NULL, 'yaml', NULL, NULL, NULL, NULL, true);
INSERT INTO public.agents VALUES (2, '1002', 'Agent 1', 'en', NULL, 'yaml', NULL, NULL, NULL, NULL, true);
INSERT INTO public.agents VALUES (3, '1003', 'Agent 2', 'en', NULL, 'yaml', NULL, NULL, NULL, NULL, true);
INSERT INTO public.agents VALUES (4, '1004', 'Agent 3', 'en', NULL, 'yaml', NULL, NULL, NULL, NULL, true);
INSERT INTO public.agents VALUES (5, '1005', 'Agent 4', 'en', NULL, 'yaml', NULL, NULL, NULL, NULL, true);
INSERT INTO public.agents VALUES (6, '1006', 'Agent 5', 'en', NULL, 'yaml', NULL, NULL, NULL, NULL, true);
INSERT INTO public.deliveries VALUES ('queue_log', 1, '1001', 0, 0, NULL, NULL, 0, NULL);
INSERT INTO public.deliveries VALUES ('queue_log', 2, '1002', 0, 0, NULL, NULL, 0, NULL);
INSERT INTO public.deliveries VALUES ('queue_log', 4, '1005', 0, 0, NULL, NULL, 0, NULL);
INSERT INTO public.deliveries VALUES ('queue_log', 5, '1005', 0, 0, NULL, NULL, 0, NULL);
INSERT INTO public.deliveries VALUES ('queue_log', 6, '1005', 0, 0, NULL, NULL, 0, NULL);
INSERT INTO public.deliveries VALUES ('user_event', 2, '1002', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('user_event', 3, '1002', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('user_event', 4, '1005', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('user_event', 5, '1005', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('user_event', 6, '1005', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('user_event', 1, '1001', 0, 1, 'refused by Asterisk', 1795339800.123457, 0, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('lamp', 2, '1002', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('lamp', 3, '1002', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('lamp', 4, '1005', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('lamp', 5, '1005', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('lamp', 6, '1005', 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.deliveries VALUES ('lamp', 1, '1001', 1795341300.123457, 1, 'no answer', NULL, 0, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.devices_in_use VALUES ('pjsip/1001', 1);
INSERT INTO public.devices_in_use VALUES ('pjsip/1002', 2);
INSERT INTO public.devices_in_use VALUES ('pjsip/1005', 5);
INSERT INTO public.devices_in_use VALUES ('pjsip/1003', 3);
INSERT INTO public.events VALUES (1, 'in-1001-1', 'agent-login', '1001', '1001', 'phones', '["sales","support"]', '', 'phone', '{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1"}', 1795339800.123457, 0, '', false, 'local');
INSERT INTO public.events VALUES (2, 'in-1002-1', 'agent-login', '1002', '1002', 'phones', '["sales","support"]', '', 'phone', '{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1"}', 1795339800.123457, 0, '', false, 'local');
INSERT INTO public.events VALUES (3, 'pause-1002-1', 'agent-pause', '1002', '1002', 'phones', '["sales","support"]', 'lunch', 'phone', '{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1"}', 1795339800.123457, 0, '', false, 'local');
INSERT INTO public.events VALUES (4, 'in-1005-1', 'agent-login', '1005', '1005', 'phones', '["sales","support"]', '', 'phone', '{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1"}', 1795339800.123457, 0, '', false, 'local');
INSERT INTO public.events VALUES (5, 'off-1005-1', 'agent-logout', '1005', '1005', 'phones', '["sales","support"]', '', 'phone', '{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1"}', 1795339800.123457, 0, '', false, 'local');
INSERT INTO public.events VALUES (6, 'in-again-1005-1', 'agent-login', '1005', '1005', 'phones', '["sales","support"]', '', 'phone', '{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1"}', 1795339800.123457, 0, '', false, 'local');
INSERT INTO public.hook_attempts VALUES (1, 1, 'in-1001-1', 'agent-login', 1795339800.123457, 1, 500, 'the receiver answered 500', 0.25, 'parked');
INSERT INTO public.hook_attempts VALUES (2, 3, 'in-1005-1', 'agent-login', 1795339800.123457, 1, 500, 'the receiver answered 500', 0.25, 'failed');
INSERT INTO public.hook_deliveries VALUES (3, 6, 0, 0, NULL, NULL, 0, NULL);
INSERT INTO public.hook_deliveries VALUES (2, 3, 0, 0, NULL, NULL, 1795341060.123457, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.hook_deliveries VALUES (1, 1, 0, 1, 'the receiver answered 500', 1795339800.123457, 0, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.hook_deliveries VALUES (3, 4, 1795341300.123457, 1, 'the receiver answered 500', NULL, 0, 'ac6acd9afbdd44deadb46494893847f6');
INSERT INTO public.hooks VALUES (1, 'crm', 1, 'local', 'agent-login', 'POST', 'http://127.0.0.1:9/1001', 'json', 1795690998.758137);
INSERT INTO public.hooks VALUES (2, 'crm', 2, 'local', 'agent-pause', 'POST', 'http://127.0.0.1:9/1002', 'json', 1795690998.7719643);
INSERT INTO public.hooks VALUES (3, 'crm', 5, 'local', 'agent-login', 'POST', 'http://127.0.0.1:9/1005', 'json', 1795690998.8213885);
INSERT INTO public.intents VALUES (3, 'open-in-1003', '{"id":"open-in-1003","agent":"1003","source":"phone","actor":{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1","name":"","hung_up":false},"device":{"extension":"1003","context":"phones","interface":"PJSIP/1003","state_interface":"PJSIP/1003","type":"local","asterisk":""},"move":false,"queues":null,"kind":"LogIn"}', 1795339800.123457, 'ac6acd9afbdd44deadb46494893847f6', 1795690999.0003078);
INSERT INTO public.intents VALUES (1, 'open-off-1001', '{"id":"open-off-1001","agent":"1001","source":"phone","actor":{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1","name":"","hung_up":false},"when_in_call":"allow","in_call":false,"reason":"","kind":"LogOff"}', 1795341000.123457, 'ac6acd9afbdd44deadb46494893847f6', 1795690999.003365);
INSERT INTO public.intents VALUES (5, 'open-pause-1005', '{"id":"open-pause-1005","agent":"1005","source":"phone","actor":{"channel":"PJSIP/1001-00000001","caller_id":"\"Ann\", x","unique_id":"1700000000.1","name":"","hung_up":false},"reason":{"code":"1","name":"lunch"},"when_in_call":"allow","in_call":false,"spent":false,"locked":false,"kind":"Pause"}', 1795341000.123457, 'ac6acd9afbdd44deadb46494893847f6', 1795690999.0067372);
INSERT INTO public.login_sessions VALUES ('in-1001', 1, '1001', 'phones', 'PJSIP/1001', 'PJSIP/1001', 'local', 1795339800.123457, 'phone', NULL, NULL, NULL, NULL, '');
INSERT INTO public.login_sessions VALUES ('in-1002', 2, '1002', 'phones', 'PJSIP/1002', 'PJSIP/1002', 'local', 1795339800.123457, 'phone', NULL, NULL, NULL, NULL, '');
INSERT INTO public.login_sessions VALUES ('in-1005', 5, '1005', 'phones', 'PJSIP/1005', 'PJSIP/1005', 'local', 1795339800.123457, 'phone', NULL, 1795339800.123457, 'logged_off', 'phone', '');
INSERT INTO public.login_sessions VALUES ('in-again-1005', 5, '1005', 'phones', 'PJSIP/1005', 'PJSIP/1005', 'local', 1795339800.123457, 'phone', NULL, NULL, NULL, NULL, '');
INSERT INTO public.memberships VALUES (3, 1, 0, false, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (3, 2, 2, false, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (4, 1, 0, false, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (4, 2, 2, false, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (6, 1, 0, false, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (6, 2, 2, false, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (1, 1, 0, true, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (1, 2, 2, true, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (2, 1, 0, true, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (2, 2, 2, true, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (5, 1, 0, true, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.memberships VALUES (5, 2, 2, true, NULL, 'yaml', NULL, NULL, NULL);
INSERT INTO public.notes VALUES ('directory', '0a84adf852f6d030ef199102e9e7903f:d3e73aba2ec6f3826e7a4cdc458c387aefcc97cc62e94e5fd695bdd94ca65f4e');
INSERT INTO public.pause_reasons VALUES (1, '10', 'meeting', '', false, NULL, 'warn', 'yaml', NULL, NULL, '');
INSERT INTO public.pause_reasons VALUES (2, '2', 'coffee', '', false, NULL, 'warn', 'yaml', NULL, NULL, '');
INSERT INTO public.pause_reasons VALUES (3, '1', 'lunch', '', false, 2700, 'unpause', 'yaml', NULL, NULL, '');
INSERT INTO public.pause_segments VALUES ('pause-1002', 2, '1', 'lunch', 1795339800.123457, 'phone', NULL, NULL, NULL);
INSERT INTO public.queues VALUES (1, '701', 'sales', 'yaml', NULL, true);
INSERT INTO public.queues VALUES (2, '702', 'support', 'yaml', NULL, true);
INSERT INTO public.queues VALUES (3, '703', 'billing', 'yaml', NULL, true);
INSERT INTO public.schema_migration VALUES (1, '0001_tables', '2026-11-26 11:03:18.368784');
INSERT INTO public.schema_migration VALUES (2, '0002_truth', '2026-11-26 11:03:18.389291');
INSERT INTO public.schema_migration VALUES (3, '0003_open_side', '2026-11-26 11:03:18.45672');
SELECT pg_catalog.setval('public.agents_id_seq', 6, true);
SELECT pg_catalog.setval('public.events_seq_seq', 6, true);
SELECT pg_catalog.setval('public.hook_attempts_id_seq', 2, true);
SELECT pg_catalog.setval('public.hooks_id_seq', 3, true);
SELECT pg_catalog.setval('public.pause_reasons_id_seq', 3, true);
SELECT pg_catalog.setval('public.pin_failures_id_seq', 1, false);
SELECT pg_catalog.setval('public.queues_id_seq', 3, true);
SELECT pg_catalog.setval('public.schema_migration_id_seq', 3, true);
ALTER TABLE ONLY public.agents
    ADD CONSTRAINT agents_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (sink, event);
ALTER TABLE ONLY public.devices_in_use
    ADD CONSTRAINT devices_in_use_pkey PRIMARY KEY (interface);
ALTER TABLE ONLY public.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (seq);
ALTER TABLE ONLY public.hook_attempts
    ADD CONSTRAINT hook_attempts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.hook_deliveries
    ADD CONSTRAINT hook_deliveries_pkey PRIMARY KEY (hook, event);
ALTER TABLE ONLY public.hooks
    ADD CONSTRAINT hooks_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.intents
    ADD CONSTRAINT intents_pkey PRIMARY KEY (agent_id);
ALTER TABLE ONLY public.login_sessions
    ADD CONSTRAINT login_sessions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_pkey PRIMARY KEY (agent_id, queue_id);
ALTER TABLE ONLY public.notes
    ADD CONSTRAINT notes_pkey PRIMARY KEY (key);
ALTER TABLE ONLY public.pause_reasons
    ADD CONSTRAINT pause_reasons_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.pause_segments
    ADD CONSTRAINT pause_segments_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.pin_failures
    ADD CONSTRAINT pin_failures_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.queue_pauses
    ADD CONSTRAINT queue_pauses_pkey PRIMARY KEY (queue_id, code);
ALTER TABLE ONLY public.queues
    ADD CONSTRAINT queues_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.schema_migration
    ADD CONSTRAINT schema_migration_pkey PRIMARY KEY (id);
CREATE UNIQUE INDEX agent_number ON public.agents USING btree (number);
CREATE UNIQUE INDEX agents_login ON public.agents USING btree (login) WHERE (login IS NOT NULL);
CREATE INDEX deliveries_held ON public.deliveries USING btree (sink, agent) WHERE (due_at > (0)::double precision);
CREATE INDEX deliveries_leased ON public.deliveries USING btree (sink, agent) WHERE (leased_until > (0)::double precision);
CREATE INDEX deliveries_parked ON public.deliveries USING btree (parked_at) WHERE (parked_at IS NOT NULL);
CREATE INDEX deviceinuse_agent_id ON public.devices_in_use USING btree (agent_id);
CREATE INDEX event_agent_seq ON public.events USING btree (agent, seq);
CREATE UNIQUE INDEX event_id ON public.events USING btree (id);
CREATE INDEX hook_agent_id ON public.hooks USING btree (agent_id);
CREATE INDEX hook_deliveries_held ON public.hook_deliveries USING btree (due_at) WHERE ((due_at > (0)::double precision) AND (parked_at IS NULL));
CREATE INDEX hook_deliveries_leased ON public.hook_deliveries USING btree (hook) WHERE (leased_until > (0)::double precision);
CREATE INDEX hook_deliveries_parked ON public.hook_deliveries USING btree (hook) WHERE (parked_at IS NOT NULL);
CREATE INDEX hook_deliveries_waiting ON public.hook_deliveries USING btree (hook, event) WHERE (parked_at IS NULL);
CREATE INDEX hookattempt_hook_id ON public.hook_attempts USING btree (hook, id);
CREATE UNIQUE INDEX login_sessions_open ON public.login_sessions USING btree (agent_id) WHERE (ended_at IS NULL);
CREATE INDEX login_sessions_planned ON public.login_sessions USING btree (agent_id) WHERE ((planned IS NOT NULL) AND (ended_at IS NULL));
CREATE INDEX loginsession_agent_id ON public.login_sessions USING btree (agent_id);
CREATE INDEX membership_queue_id ON public.memberships USING btree (queue_id);
CREATE INDEX pause_segments_ended ON public.pause_segments USING btree (agent_id, ended_at);
CREATE UNIQUE INDEX pause_segments_open ON public.pause_segments USING btree (agent_id) WHERE (ended_at IS NULL);
CREATE UNIQUE INDEX pausereason_code ON public.pause_reasons USING btree (code);
CREATE INDEX pausesegment_agent_id ON public.pause_segments USING btree (agent_id);
CREATE INDEX pinfailure_key_at ON public.pin_failures USING btree (key, at);
CREATE UNIQUE INDEX queue_name ON public.queues USING btree (name);
CREATE UNIQUE INDEX queues_live_number ON public.queues USING btree (number) WHERE (archived_at IS NULL);
CREATE UNIQUE INDEX schema_migration_name ON public.schema_migration USING btree (name);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_event_fkey FOREIGN KEY (event) REFERENCES public.events(seq);
ALTER TABLE ONLY public.devices_in_use
    ADD CONSTRAINT devices_in_use_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON UPDATE CASCADE;
ALTER TABLE ONLY public.hook_attempts
    ADD CONSTRAINT hook_attempts_hook_fkey FOREIGN KEY (hook) REFERENCES public.hooks(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.hook_deliveries
    ADD CONSTRAINT hook_deliveries_event_fkey FOREIGN KEY (event) REFERENCES public.events(seq);
ALTER TABLE ONLY public.hook_deliveries
    ADD CONSTRAINT hook_deliveries_hook_fkey FOREIGN KEY (hook) REFERENCES public.hooks(id) ON DELETE CASCADE;
ALTER TABLE ONLY public.hooks
    ADD CONSTRAINT hooks_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON UPDATE CASCADE;
ALTER TABLE ONLY public.intents
    ADD CONSTRAINT intents_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON UPDATE CASCADE;
ALTER TABLE ONLY public.login_sessions
    ADD CONSTRAINT login_sessions_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON UPDATE CASCADE;
ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON UPDATE CASCADE;
ALTER TABLE ONLY public.memberships
    ADD CONSTRAINT memberships_queue_id_fkey FOREIGN KEY (queue_id) REFERENCES public.queues(id) ON UPDATE CASCADE;
ALTER TABLE ONLY public.pause_segments
    ADD CONSTRAINT pause_segments_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.agents(id) ON UPDATE CASCADE;
ALTER TABLE ONLY public.queue_pauses
    ADD CONSTRAINT queue_pauses_queue_id_fkey FOREIGN KEY (queue_id) REFERENCES public.queues(id) ON UPDATE CASCADE;
