/* One instance, NW workers, the server and its faults: the engine's protocol and nothing of what it is for.
   Which line stands for which code and law: README.md. Guards are switched off by -DMUTANT_x, see mutants.py. */

#ifndef NW
#define NW 2        /* workers */
#endif
#ifndef FAULTS
#define FAULTS 2    /* crashes + doubtful leases + late writes + redeliveries + odd refusals + drains, all together */
#endif
#ifndef LATE
#define LATE 1      /* writes that their sender has given up waiting for and that may still land */
#endif
#ifndef MESSAGES
#define MESSAGES 3  /* bit 0 the start, bit 1 a message, bit 2 a cancel */
#endif
#define INCARNATIONS (NW + FAULTS + 1)
#define COMMITS 6

/* Messages, and the events that they become; DONE and END come from the workflow itself. */
#define START 0
#define MESSAGE 1
#define CANCEL 2
#define RESUME 3
#define STARTED 1
#define MESSAGED 2
#define CANCELLED 4
#define DONE 16
#define END 32
#define BIT(m) (1 << (m))

/* The workflow: an activity and a message, in either order; a cancel ends it at once. */
#ifdef MESSAGE_FIRST
#define BEGINS(what) (what & MESSAGED)
#define WAITS(what) ((what & STARTED) && !(what & (MESSAGED | END)))
#define ENDS(what) ((what & CANCELLED) || (what & DONE))
#else
#define BEGINS(what) (what & STARTED)
#define WAITS(what) ((what & DONE) && !(what & END))
#define ENDS(what) ((what & CANCELLED) || ((what & DONE) && ((what & MESSAGED) || !(MESSAGES & MESSAGED))))
#endif

/* Status of the record. */
#define NONE 0
#define RUNNING 1
#define WAITING 2
#define QUEUED 3
#define ENDED 4

/* What a write is answered. */
#define UNSENT 0
#define SENT 1
#define OK 2
#define STALE 3
#define EXISTS 4
#define OTHER 5

/* What the handler of a worker does (one at a time: `Ownership.claiming`). */
#define FREE 0
#define CREATING 1
#define CLAIMING 2
#define ENDING 3      /* a cancel that comes before the start */
#define FORWARDING 4

/* A forward. */
#define ASKED 1
#define TAKEN 2
#define ANSWERED 3

byte faults = FAULTS;
byte next_incarnation = 1;
byte draining_workers;

/* --- the server: record, history, leases, queue */
byte rec_revision, rec_owner, rec_status, rec_commits, rec_writer;
byte commits, all;
byte fence_of[COMMITS + 1], what_of[COMMITS + 1];
bool alive[INCARNATIONS + 1];
bool available[4], acked[4];
byte parked[4];      /* bit w: worker w pulled it and nothing has changed since: to pull it again would change nothing */

/* --- writes that nobody waits for any more */
#define COMMIT 1
#define REST 2
#define CLAIM 3
byte late_kind[LATE], late_at[LATE], late_fence[LATE], late_what[LATE], late_by[LATE], late_extra[LATE];

/* --- a worker */
bool up[NW], valid[NW], taking[NW], draining[NW];
byte name[NW];       /* its incarnation */
/* its handler */
byte doing[NW], about[NW], asked_by[NW];
byte h_reply[NW], h_at[NW], h_by[NW], h_commits[NW], h_revision[NW], h_status[NW];
bool h_again[NW];
/* its memory of the instance */
bool mem[NW];
byte m_by[NW], m_fence[NW], m_commits[NW], m_what[NW], inbox[NW], held[NW], activity[NW];
/* its commit in flight */
byte c_reply[NW], c_at[NW], c_fence[NW], c_what[NW];
bool c_again[NW];
/* its rest in flight */
byte r_reply[NW], r_status[NW], r_at[NW];
bool r_again[NW];
/* its forward in flight */
byte f_state[NW], f_to[NW], f_answer[NW];
#ifdef CACHE
bool cached[NW];
byte k_revision[NW], k_commits[NW], k_what[NW];
#endif
#ifdef MUTANT_LOAD_BEFORE_CLAIM
byte l_commits[NW], l_what[NW];
#endif
#ifdef MUTANT_WAKE_ONLY_IF_IDLE
bool mailbox;
#endif
#ifdef SWEEPER
byte swept;
#endif

/* What a step still has to do before it is over; one atomic step, written once (see `worker`). */
bool to_look, to_turn, to_settle, to_drop;
byte l_about, l_for;
byte i_, j_, x_, y_;

#define BUSY(w) (c_reply[w] != UNSENT || r_reply[w] != UNSENT)
#define STEPPED(w) (m_what[w] | (c_reply[w] != UNSENT -> c_what[w] : 0))
#define AT_REST (rec_owner == 0 && rec_commits > 0 && rec_status != QUEUED)
#if defined(MUTANT_MEMORY_OF_THE_DEAD) || defined(MUTANT_COMMIT_UNDER_DEAD_LEASE)
#define LIVES(w) true
#else
#define LIVES(w) (m_by[w] == name[w] && !taking[w])
#endif

/* Something changed: whoever gave a message back may see something else now. */
inline changed() { parked[0] = 0; parked[1] = 0; parked[2] = 0; parked[3] = 0 }

/* --- the queue */

inline give_back(m) {
  if
  :: acked[m] -> skip
  :: else -> available[m] = true
  fi
}

/* L5, L9: nothing is acked that is not in history, unless the instance has ended. */
inline ack(m) {
  assert(m == RESUME || (all & BIT(m)) || rec_status == ENDED);
  if
  :: acked[m] -> skip
  :: else ->
    if
    :: true -> acked[m] = true; available[m] = false
    :: faults > 0 -> faults--; available[m] = true  /* the ack is lost: it comes again */
    fi
  fi;
  changed()
}

/* --- the server: commits and the record. The laws are asserted here, where they hold whoever wrote. */

inline land_commit(at, fence, what, by, reply) {
  reply = OK;
  if
  :: at <= commits -> reply = EXISTS
  :: else -> skip
  fi;
#ifndef MUTANT_NO_FENCE
  if
  :: fence == rec_revision -> skip
  :: else ->
    if  /* which of two reasons a server names first is not for us to know */
    :: reply == EXISTS -> skip
    :: reply = STALE
    fi
  fi;
#endif
  if
  :: reply == OK ->
    assert(at == commits + 1);               /* gap-free */
    assert(by == rec_owner);                 /* L1: only the owner commits */
    assert(commits > 0 || (what & STARTED)); /* L1: only a start begins */
    assert((all & what) == 0);               /* everything once: message, start, result, end */
    assert(!(all & END));                    /* nothing after the end */
    commits = at; fence_of[at] = fence; what_of[at] = what; all = all | what;
    changed()
  :: else -> skip
  fi
}

inline land_record(claims, at, by, status, count, reply, revision) {
  reply = STALE;
  if
#ifdef MUTANT_CLAIM_WITHOUT_CAS
  :: rec_revision == at || (claims && status == RUNNING) ->
#else
  :: rec_revision == at ->
#endif
    assert(rec_status != ENDED);
    if
    :: claims -> assert(rec_owner == 0 || rec_owner == by || !alive[rec_owner])
    :: else ->
      assert(rec_owner == by);
      assert(status == QUEUED || count == commits);  /* what acks rely on (L5) */
      assert(status == QUEUED || (status == ENDED) == ((all & END) != 0))
    fi;
    rec_revision++; rec_writer = by; rec_status = status; rec_commits = count;
    rec_owner = (claims && status == RUNNING -> by : 0);
    reply = OK; revision = rec_revision;
    changed()
  :: else -> skip
  fi
}

/* A write whose sender is gone, or sends it again: it lands some time, or never. */
inline maybe_late(kind, at, fence, what, by, extra) {
  for (j_ : 0 .. LATE - 1) {
    if
    :: late_kind[j_] == 0 ->
      if
      :: true ->
        late_kind[j_] = kind; late_at[j_] = at; late_fence[j_] = fence;
        late_what[j_] = what; late_by[j_] = by; late_extra[j_] = extra
      :: true -> skip
      fi;
      break
    :: else -> skip
    fi
  }
}

/* --- a worker's memory */

inline answer_forwards(w, value) {
  for (i_ : 0 .. NW - 1) {
    if
    :: f_state[i_] == TAKEN && f_to[i_] == w -> f_state[i_] = ANSWERED; f_answer[i_] = value
    :: else -> skip
    fi
  }
}

inline answer_by_rest(w) {
  for (i_ : 0 .. NW - 1) {
    if
    :: f_state[i_] == TAKEN && f_to[i_] == w ->
      f_state[i_] = ANSWERED;
      if
#ifndef MUTANT_FORWARD_ACKS_LET_GO
      :: r_status[w] == QUEUED -> f_answer[i_] = 0
#endif
      :: else -> f_answer[i_] = ((STEPPED(w) & BIT(about[i_])) -> m_commits[w] : 0)
      fi
    :: else -> skip
    fi
  }
}

inline forget(w) {
  mem[w] = false; m_by[w] = 0; m_fence[w] = 0; m_commits[w] = 0; m_what[w] = 0;
  inbox[w] = 0; held[w] = 0; activity[w] = 0;
  c_reply[w] = UNSENT; c_at[w] = 0; c_fence[w] = 0; c_what[w] = 0; c_again[w] = false;
  r_reply[w] = UNSENT; r_status[w] = 0; r_at[w] = 0; r_again[w] = false;
  changed()
}

inline drop(w) {
  for (i_ : 0 .. 3) {
    if
    :: held[w] & BIT(i_) -> give_back(i_)
    :: else -> skip
    fi
  }
  answer_forwards(w, 0);
  if
  :: c_reply[w] == SENT -> maybe_late(COMMIT, c_at[w], c_fence[w], c_what[w], m_by[w], 0)
  :: r_reply[w] == SENT -> maybe_late(REST, r_at[w], 0, r_status[w], m_by[w], m_commits[w])
  :: else -> skip
  fi;
  forget(w)
}

/* `Instance._step` and `_commit`: all that has arrived goes into one commit. */
inline send_commit(w) {
  x_ = inbox[w] & ~m_what[w]; inbox[w] = 0;
  y_ = m_what[w] | x_;
  if
  :: ENDS(y_) -> x_ = x_ | END
  :: else -> skip
  fi;
  assert(m_by[w] == name[w] && valid[w] && !taking[w]);  /* L10 */
  c_reply[w] = SENT; c_at[w] = m_commits[w] + 1; c_fence[w] = m_fence[w]; c_what[w] = x_; c_again[w] = false;
#ifdef MUTANT_ACTIVITY_BEFORE_COMMIT
  if
  :: BEGINS(x_) -> activity[w] = 1
  :: else -> skip
  fi;
#endif
  x_ = 0; y_ = 0
}

/* `Instance._settled`: nothing is left to do but to rest. */
inline settle(w) {
#ifdef MUTANT_WAKE_ONLY_IF_IDLE
  if
  :: mailbox && valid[w] && !(m_what[w] & END) -> inbox[w] = inbox[w] | MESSAGED; acked[MESSAGE] = true; mailbox = false
  :: else -> skip
  fi;
#endif
#ifdef LOOK_AGAIN
  if
  :: available[MESSAGE] && !draining[w] && valid[w] -> available[MESSAGE] = false;
    held[w] = held[w] | MESSAGED; inbox[w] = inbox[w] | (MESSAGED & ~m_what[w])
  :: else -> skip
  fi;
#endif
  if
  :: (inbox[w] & ~m_what[w]) && !(m_what[w] & END) -> send_commit(w)
  :: (m_what[w] & END) || ((inbox[w] & ~m_what[w]) == 0 && WAITS(m_what[w])) ->
    r_reply[w] = SENT; r_at[w] = m_fence[w];
    r_status[w] = ((m_what[w] & END) -> ENDED : WAITING)
  :: else -> skip
  fi
}

/* `Instance._turn`: step and commit, or see whether to rest. */
inline turn(w) {
  if
  :: mem[w] && !BUSY(w) && ((valid[w] && LIVES(w)) || to_settle) ->
    if
    :: (inbox[w] & ~m_what[w]) && !(m_what[w] & END) -> send_commit(w)
    :: else -> settle(w)
    fi
  :: else -> skip
  fi
}

/* Begin what is committed and pending. The effect itself begins a moment later, see `begins`. */
inline begin_pending(w) {
  if
  :: BEGINS(m_what[w]) && !((m_what[w] | inbox[w]) & (DONE | END)) && activity[w] == 0 &&
     valid[w] && LIVES(w) -> activity[w] = 1
  :: else -> skip
  fi
}

/* --- the handler */

inline free_handler(w) {
  doing[w] = FREE; about[w] = 0; asked_by[w] = 0;
  h_reply[w] = UNSENT; h_at[w] = 0; h_by[w] = 0; h_commits[w] = 0; h_revision[w] = 0; h_status[w] = 0;
  h_again[w] = false
}

/* Not now: a pulled message is given back, a forward is answered with nothing. */
inline refuse(w, m, f) {
  if
  :: f == 0 -> give_back(m)
  :: f != 0 && f_state[f - 1] != 0 && f_to[f - 1] == w -> f_state[f - 1] = ANSWERED; f_answer[f - 1] = 0
  :: else -> skip
  fi
}

inline confirm(m, f, w) {
  if
  :: f == 0 -> ack(m)
  :: f != 0 && f_state[f - 1] != 0 && f_to[f - 1] == w -> f_state[f - 1] = ANSWERED; f_answer[f - 1] = 0
  :: else -> skip
  fi
}

/* Into the memory that there is; acked when it rests. */
inline take(w, m, f) {
  if
  :: f == 0 -> held[w] = held[w] | BIT(m)
  :: f != 0 && f_state[f - 1] != 0 && f_to[f - 1] == w -> f_state[f - 1] = TAKEN;
#ifdef MUTANT_FORWARD_ACK_UNCHECKED
    f_state[f - 1] = ANSWERED; f_answer[f - 1] = 1;
#endif
  :: else -> skip
  fi;
  if
  :: m != RESUME && !((STEPPED(w) | inbox[w]) & BIT(m)) && (m != START || m_commits[w] == 0) ->
    inbox[w] = inbox[w] | BIT(m)
  :: else -> skip
  fi
}

inline send_record(w, kind, m, f, at, count, status) {
  doing[w] = kind; about[w] = m; asked_by[w] = f;
  h_reply[w] = SENT; h_at[w] = at; h_by[w] = name[w]; h_commits[w] = count; h_status[w] = status;
#ifdef MUTANT_LOAD_BEFORE_CLAIM
  l_commits[w] = commits; l_what[w] = all;
#endif
}

/* `Ownership.claim`: of a dead owner, of nobody, or of oneself; else forward. A forward is not forwarded again. */
inline claim(w, m, f) {
  if
#ifdef MUTANT_ADOPT_OWN_NAME
  :: rec_owner == name[w] ->
    mem[w] = true; m_by[w] = name[w]; m_fence[w] = rec_revision; m_commits[w] = commits; m_what[w] = all;
    take(w, m, f); begin_pending(w); to_turn = true
#endif
#ifndef MUTANT_TAKE_FROM_THE_LIVING
  :: rec_owner != 0 && rec_owner != name[w] && alive[rec_owner] ->
    if
    :: f != 0 -> refuse(w, m, f)
    :: else ->
      doing[w] = FORWARDING; about[w] = m; f_state[w] = ASKED; f_to[w] = w; f_answer[w] = 0;
      for (i_ : 0 .. NW - 1) {
        if
        :: name[i_] == rec_owner && up[i_] && !taking[i_] -> f_to[w] = i_
        :: else -> skip
        fi
      }
    fi
#endif
  :: else -> send_record(w, CLAIMING, m, f, rec_revision, commits, RUNNING)
  fi
}

/* `Messages._deliver`, `Intake._join`: there is a record and no memory. */
inline decide(w, m, f) {
  if
  :: rec_status == ENDED -> confirm(m, f, w)
  :: rec_status != ENDED && m == START &&
#ifndef MUTANT_QUEUED_IS_REST
     rec_status != QUEUED &&
#endif
     rec_owner == 0 && rec_commits > 0 -> confirm(m, f, w)
  :: rec_status != ENDED && m == RESUME && AT_REST -> confirm(m, f, w)
#ifndef MUTANT_MESSAGE_CLAIMS_UNSTARTED
  :: rec_status != ENDED && m != START && rec_commits == 0 && commits == 0 -> refuse(w, m, f)
#endif
  :: else -> claim(w, m, f)
  fi
}

/* One message decides about the instance at a time; reads are one with the decision, writes are not. */
inline look(w, m, f) {
  if
  :: !valid[w] || (draining[w] && (m == START || !mem[w] || r_status[w] == QUEUED)) -> refuse(w, m, f)
  :: else ->
    if
    :: mem[w] -> take(w, m, f); to_turn = true
    :: !mem[w] && rec_revision == 0 ->
      if
      :: m == START -> send_record(w, CREATING, m, f, 0, 0, RUNNING)
      :: m == CANCEL -> send_record(w, ENDING, m, f, 0, 0, ENDED)
      :: else -> refuse(w, m, f)
      fi
    :: else -> decide(w, m, f)
    fi
  fi
}

/* The claim is ours: load (or take from the cache), take the message, go on. */
inline owned(w) {
  if
#ifdef MUTANT_MEMORY_OF_THE_DEAD
  :: false -> skip
#else
  :: h_by[w] != name[w] || taking[w] || !up[w] -> refuse(w, about[w], asked_by[w])
#endif
  :: else ->
    mem[w] = true; m_by[w] = h_by[w]; m_fence[w] = h_revision[w]; m_commits[w] = commits; m_what[w] = all;
#ifdef MUTANT_LOAD_BEFORE_CLAIM
    m_commits[w] = l_commits[w]; m_what[w] = l_what[w];
#endif
#ifdef MUTANT_STALE_READ
    if  /* a replica that lags by one commit */
    :: m_commits[w] > 1 -> m_commits[w]--; m_what[w] = m_what[w] & ~what_of[commits]
    :: true -> skip
    fi;
#endif
#ifdef CACHE
    if
#ifdef MUTANT_CACHE_UNCHECKED
    :: cached[w] -> m_commits[w] = k_commits[w]; m_what[w] = k_what[w]
#else
    :: cached[w] && k_revision[w] == h_at[w] ->
      assert((k_commits[w] == commits && k_what[w] == all) || rec_revision != h_revision[w]);  /* L4 */
      m_commits[w] = k_commits[w]; m_what[w] = k_what[w]
#endif
    :: else -> skip
    fi;
    cached[w] = false; k_revision[w] = 0; k_commits[w] = 0; k_what[w] = 0;
#endif
    take(w, about[w], asked_by[w]);
    begin_pending(w);
    to_turn = true
  fi;
  free_handler(w);
  changed()
}

inline record_answered(w) {
  if
  :: h_reply[w] == STALE && h_again[w] && rec_writer == h_by[w] && rec_revision == h_at[w] + 1 ->
    h_reply[w] = OK; h_revision[w] = rec_revision  /* its own write, the answer of which was lost (L3) */
  :: else -> skip
  fi;
  if
  :: h_reply[w] != OK && doing[w] == CREATING ->
    l_for = asked_by[w]; l_about = START; to_look = true; free_handler(w)
  :: h_reply[w] != OK && doing[w] != CREATING -> refuse(w, about[w], asked_by[w]); free_handler(w)
  :: h_reply[w] == OK && doing[w] == ENDING -> confirm(about[w], asked_by[w], w); free_handler(w)
  :: else -> owned(w)
  fi
}

inline commit_is_written(w) {
  assert(what_of[c_at[w]] == c_what[w]);  /* L3: what its writer takes for written is in history */
  m_commits[w] = c_at[w]; m_what[w] = m_what[w] | c_what[w];
  c_reply[w] = UNSENT; c_at[w] = 0; c_fence[w] = 0; c_what[w] = 0; c_again[w] = false;
  if
  :: m_what[w] & END -> activity[w] = 0
  :: else -> skip
  fi;
#ifdef MUTANT_ACK_BEFORE_REST
  for (i_ : 0 .. 2) {
    if
    :: held[w] & m_what[w] & BIT(i_) -> ack(i_); held[w] = held[w] & ~BIT(i_)
    :: else -> skip
    fi
  }
#endif
  begin_pending(w);
  to_turn = (inbox[w] != 0); to_settle = !to_turn
}

inline commit_answered(w) {
  if
  :: c_reply[w] == OK -> commit_is_written(w)
#ifdef MUTANT_SEND_UNDER_ANOTHER_NUMBER
  :: c_reply[w] == EXISTS && c_again[w] -> c_reply[w] = SENT; c_at[w] = c_at[w] + 1
#endif
#ifdef MUTANT_EXISTS_IS_OURS
  :: c_reply[w] == EXISTS && c_again[w] -> commit_is_written(w)
#endif
  :: c_reply[w] == EXISTS && c_again[w] && fence_of[c_at[w]] == c_fence[w] && what_of[c_at[w]] == c_what[w] ->
    commit_is_written(w)
#ifdef MUTANT_KEEP_MEMORY
  :: c_reply[w] == STALE || c_reply[w] == OTHER ->  /* read the tail and try again, blindly */
    m_fence[w] = rec_revision; c_fence[w] = rec_revision; c_at[w] = commits + 1; c_reply[w] = SENT
#endif
  :: else -> to_drop = true
  fi
}

inline rest_answered(w) {
  if
  :: r_reply[w] == STALE && r_again[w] && rec_writer == m_by[w] && rec_revision == r_at[w] + 1 -> r_reply[w] = OK
  :: else -> skip
  fi;
  if
  :: r_reply[w] == OK ->
    for (i_ : 0 .. 3) {
      if
      :: (held[w] & BIT(i_)) &&
#ifdef MUTANT_ACK_WITHOUT_COMMIT
         r_status[w] != QUEUED -> ack(i_)
#else
         r_status[w] != QUEUED && (i_ == RESUME || (m_what[w] & BIT(i_)) || r_status[w] == ENDED) -> ack(i_)
#endif
      :: else ->
        if
        :: held[w] & BIT(i_) -> give_back(i_)
        :: else -> skip
        fi
      fi
    }
#ifdef CACHE
    if
    :: r_status[w] == WAITING ->
      cached[w] = true; k_revision[w] = r_at[w] + 1; k_commits[w] = m_commits[w]; k_what[w] = m_what[w]
    :: else -> skip
    fi;
#endif
    answer_by_rest(w);
#ifdef MUTANT_LET_GO_UNANSWERED
    if  /* sent again, under the revision that the rest has given */
    :: c_reply[w] == SENT -> maybe_late(COMMIT, c_at[w], r_at[w] + 1, c_what[w], m_by[w], 0)
    :: else -> skip
    fi;
#endif
    forget(w)
  :: else -> to_drop = true
  fi
}

inline forward_answered(w) {
  if
#ifdef MUTANT_FORWARD_ACK_UNCHECKED
  :: f_answer[w] != 0 -> ack(about[w])
#endif
  :: f_answer[w] != 0 && rec_owner == 0 && f_answer[w] <= rec_commits -> ack(about[w])
  :: else -> give_back(about[w])
  fi;
  f_state[w] = 0; f_to[w] = 0; f_answer[w] = 0;
  free_handler(w)
}

/* Everything of this process is gone; what it had sent may still arrive, what it held comes again. */
inline die(w) {
  if
  :: doing[w] != FREE && asked_by[w] == 0 -> give_back(about[w])
  :: else -> skip
  fi;
  if
  :: doing[w] != FREE && asked_by[w] != 0 -> refuse(w, about[w], asked_by[w])
  :: else -> skip
  fi;
  if
  :: h_reply[w] == SENT ->
    maybe_late(CLAIM, h_at[w], 0, h_status[w], h_by[w], h_commits[w])
  :: else -> skip
  fi;
  f_state[w] = 0; f_to[w] = 0; f_answer[w] = 0;
  free_handler(w);
#ifdef CACHE
  cached[w] = false; k_revision[w] = 0; k_commits[w] = 0; k_what[w] = 0;
#endif
  to_drop = true;
  up[w] = false; valid[w] = false; taking[w] = false
}

inline new_name(w) {
  name[w] = next_incarnation; next_incarnation++;
  alive[name[w]] = true; valid[w] = true; up[w] = true; taking[w] = false;
  changed()
}

/* `Engine._lease_regained`, `Instance.poke`: what was held back begins, what has arrived is stepped. */
inline poke(w) {
  if
  :: mem[w] && !BUSY(w) ->
    begin_pending(w);
#ifdef MUTANT_POKE_ONLY_FOR_MESSAGES
    to_turn = (inbox[w] != 0)
#else
    to_turn = true
#endif
  :: else -> skip
  fi
}

inline pulls(w, m) {
  available[m] = false; parked[m] = parked[m] | BIT(w);
  l_about = m; l_for = 0; to_look = true
}

#define CAN_PULL(w, m) (up[w] && !draining[w] && doing[w] == FREE && available[m] && !(parked[m] & BIT(w)))
#define ASKS(f, w) (f != w && up[w] && doing[w] == FREE && f_state[f] == ASKED && f_to[f] == w)

/* A step is one `::` below and then whatever of look, drop and turn it calls for: nothing comes in between, for all of it
   is synchronous code between two awaits. */
proctype worker(byte w) {
  atomic { new_name(w) };
end:
  do
  :: atomic {
    if
    /* messages, pulled and forwarded */
    :: CAN_PULL(w, START) -> pulls(w, START)
    :: CAN_PULL(w, MESSAGE) -> pulls(w, MESSAGE)
    :: CAN_PULL(w, CANCEL) -> pulls(w, CANCEL)
#ifdef SWEEPER
    :: CAN_PULL(w, RESUME) -> pulls(w, RESUME)
#endif
    :: ASKS(0, w) -> l_about = about[0]; l_for = 1; to_look = true
    :: ASKS(1, w) -> l_about = about[1]; l_for = 2; to_look = true
#if NW > 2
    :: ASKS(2, w) -> l_about = about[2]; l_for = 3; to_look = true
#endif
    :: doing[w] == FORWARDING ->
      if
      :: f_state[w] == ANSWERED -> skip
      :: f_state[w] != ANSWERED -> f_answer[w] = 0  /* nobody answers in time */
      fi;
      forward_answered(w)

    /* the claim: the server answers it, the worker hears of it */
    :: h_reply[w] == SENT -> land_record(true, h_at[w], h_by[w], h_status[w], h_commits[w], h_reply[w], h_revision[w])
    :: h_reply[w] == SENT && faults > 0 && !h_again[w] ->
      faults--; h_again[w] = true;
      maybe_late(CLAIM, h_at[w], 0, h_status[w], h_by[w], h_commits[w])
    :: h_reply[w] > SENT -> record_answered(w)

    /* the commit */
    :: c_reply[w] == SENT -> land_commit(c_at[w], c_fence[w], c_what[w], m_by[w], c_reply[w])
    :: c_reply[w] == SENT && faults > 0 && !c_again[w] ->
      faults--; maybe_late(COMMIT, c_at[w], c_fence[w], c_what[w], m_by[w], 0);
#ifdef MUTANT_UNANSWERED_IS_FAILED
      inbox[w] = inbox[w] | (c_what[w] & ~(DONE | END));
      c_reply[w] = UNSENT; c_what[w] = 0; c_at[w] = 0; c_fence[w] = 0;
      begin_pending(w); to_turn = true
#else
      c_again[w] = true
#endif
    :: c_reply[w] == SENT && faults > 0 -> faults--; c_reply[w] = OTHER
    :: c_reply[w] > SENT -> commit_answered(w)

    /* the activity: its effect begins, its result arrives */
    :: activity[w] == 1 && valid[w] ->
      assert(BEGINS(all));                           /* L2: commit before effect */
      assert(m_fence[w] != rec_revision || !(all & DONE)); /* what is recorded is not begun again by the owner */
      activity[w] = 2
    :: activity[w] == 2 -> activity[w] = 0; inbox[w] = inbox[w] | DONE; to_turn = true

    /* the rest */
    :: r_reply[w] == SENT -> land_record(false, r_at[w], m_by[w], r_status[w], m_commits[w], r_reply[w], x_); x_ = 0
    :: r_reply[w] == SENT && faults > 0 && !r_again[w] ->
      faults--; r_again[w] = true; maybe_late(REST, r_at[w], 0, r_status[w], m_by[w], m_commits[w])
    :: r_reply[w] > SENT -> rest_answered(w)

    /* the lease: doubtful, renewed after all, lost, and a new one */
    :: up[w] && valid[w] && faults > 0 -> faults--; valid[w] = false
    :: up[w] && !valid[w] && !taking[w] && !draining[w] && alive[name[w]] -> valid[w] = true; changed(); poke(w)
    :: up[w] && !valid[w] && !taking[w] && !draining[w] ->
      taking[w] = true;
#ifndef MUTANT_COMMIT_UNDER_DEAD_LEASE
      to_drop = mem[w];
#endif
      changed()
    :: up[w] && taking[w] -> new_name(w); poke(w)

    /* the end of a worker, on purpose and not */
    :: up[w] && !draining[w] && faults > 0 && draining_workers < NW - 1 ->
      faults--; draining_workers++; draining[w] = true; changed()
    :: draining[w] && mem[w] && !(STEPPED(w) & END) && r_reply[w] == UNSENT &&
#ifndef MUTANT_LET_GO_UNANSWERED
      c_reply[w] == UNSENT &&
#endif
      ((inbox[w] & ~m_what[w]) == 0 || !valid[w]) ->
      activity[w] = 0; r_reply[w] = SENT; r_at[w] = m_fence[w]; r_status[w] = QUEUED
    :: up[w] && draining[w] -> alive[name[w]] = false; die(w); name[w] = 0; changed()
    :: up[w] && !draining[w] && faults > 0 -> faults--; die(w)
    :: !up[w] && !draining[w] -> new_name(w)
    fi;
    if
    :: to_look -> to_look = false; look(w, l_about, l_for); l_about = 0; l_for = 0
    :: else -> skip
    fi;
    if
    :: to_drop -> to_drop = false; drop(w)
    :: else -> skip
    fi;
    if
    :: to_turn || to_settle -> turn(w); to_turn = false; to_settle = false
    :: else -> skip
    fi;
    i_ = 0; j_ = 0 }
  od
}

/* The world: a key that nobody renews expires, late writes land, messages come again, a sweeper looks. */
#define HELD_BY(i, w) (name[w] == i && valid[w])
#if NW > 2
#define RENEWED(i) (HELD_BY(i, 0) || HELD_BY(i, 1) || HELD_BY(i, 2))
#else
#define RENEWED(i) (HELD_BY(i, 0) || HELD_BY(i, 1))
#endif

inline late_arrives(k) {
  if
  :: late_kind[k] == COMMIT -> land_commit(late_at[k], late_fence[k], late_what[k], late_by[k], y_)
  :: late_kind[k] == REST -> land_record(false, late_at[k], late_by[k], late_what[k], late_extra[k], y_, x_)
  :: else -> land_record(true, late_at[k], late_by[k], late_what[k], late_extra[k], y_, x_)
  fi;
  x_ = 0; y_ = 0;
  late_kind[k] = 0; late_at[k] = 0; late_fence[k] = 0; late_what[k] = 0; late_by[k] = 0; late_extra[k] = 0
}

proctype expiry(byte i) {
end:
  do
  :: atomic { alive[i] && !RENEWED(i) -> alive[i] = false; changed() }
  od
}

proctype network(byte k) {
end:
  do
  :: atomic { late_kind[k] != 0 -> late_arrives(k) }
  od
}

/* A message comes again although somebody holds it: its ack wait is over. */
#define AGAIN(m) (faults > 0 && !acked[m] && !available[m])

proctype redelivery(byte m) {
end:
  do
  :: atomic { AGAIN(m) -> faults--; available[m] = true; changed() }
  od
}

#ifdef SWEEPER
proctype sweeper() {
end:
  do
  :: atomic { (rec_status == QUEUED || (rec_owner != 0 && !alive[rec_owner])) && swept < rec_revision && acked[RESUME] ->
       swept = rec_revision; acked[RESUME] = false; available[RESUME] = true; changed() }
  od
}
#endif

#ifdef MUTANT_WAKE_ONLY_IF_IDLE
proctype sender() {
  atomic {
    if
    :: AT_REST -> available[MESSAGE] = true; changed()
    :: else -> mailbox = true
    fi
  }
}
#endif

/* L5, L6, L9: when nothing can happen any more, everything has happened. */
proctype at_the_end() {
  timeout;
  assert(rec_status == ENDED && rec_owner == 0);
  assert(acked[START] && acked[MESSAGE] && acked[CANCEL] && acked[RESUME]);
  assert(all == 0 || ((all & STARTED) && (all & END) && rec_commits == commits));
  assert(all != 0 || (MESSAGES & BIT(CANCEL)));
  assert(all == 0 || ENDS(all))
}

init {
  atomic {
    /* A message is published whenever it is, and nobody looks before whether the instance is idle (L6): from the first
       moment on, for it is pulled at any later one. */
    acked[START] = !(MESSAGES & BIT(START)); available[START] = !acked[START];
    acked[MESSAGE] = !(MESSAGES & BIT(MESSAGE)); available[MESSAGE] = !acked[MESSAGE];
    acked[CANCEL] = !(MESSAGES & BIT(CANCEL)); available[CANCEL] = !acked[CANCEL];
    acked[RESUME] = true;
#ifdef MUTANT_WAKE_ONLY_IF_IDLE
    available[MESSAGE] = false;
    run sender();
#endif
#ifndef EXACTLY
    select(faults : 0 .. FAULTS);
#endif
    for (i_ : 0 .. NW - 1) { run worker(i_) }
    for (i_ : 1 .. INCARNATIONS) { run expiry(i_) }
    for (i_ : 0 .. LATE - 1) { run network(i_) }
#ifdef SWEEPER
    run sweeper();
#endif
#ifndef MUTANT_WAKE_ONLY_IF_IDLE
    for (i_ : START .. CANCEL) { run redelivery(i_) }
#endif
    run at_the_end();
    i_ = 0
  }
}
