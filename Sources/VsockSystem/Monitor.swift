// SPDX-License-Identifier: Apache-2.0
//
// A lock with conditions, pthread_mutex_lock(3) and pthread_cond_timedwait(3), for threads that may block. Deadlines are
// those of MonotonicClock. The standard library's Mutex has no conditions.

import Glibc

/// A lock that threads can wait under. Not recursive.
public final class Monitor: @unchecked Sendable {
    // Unchecked because of the pointer: the mutex is made for sharing, and lives as long as this object.
    private let mutex: UnsafeMutablePointer<pthread_mutex_t>

    /// An open lock.
    public init() {
        mutex = .allocate(capacity: 1)
        mutex.initialize(to: pthread_mutex_t())
        pthread_mutex_init(mutex, nil)
    }

    deinit {
        pthread_mutex_destroy(mutex)
        mutex.deallocate()
    }

    /// Takes the lock; waits while another thread has it.
    public func lock() { pthread_mutex_lock(mutex) }

    /// Gives the lock back.
    public func unlock() { pthread_mutex_unlock(mutex) }

    /// What threads wait for under the lock.
    public final class Condition: @unchecked Sendable {
        // As for the mutex.
        private let condition: UnsafeMutablePointer<pthread_cond_t>

        /// A condition nobody waits for.
        public init() {
            condition = .allocate(capacity: 1)
            condition.initialize(to: pthread_cond_t())
            var attributes = pthread_condattr_t()
            pthread_condattr_init(&attributes)
            pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
            pthread_cond_init(condition, &attributes)
            pthread_condattr_destroy(&attributes)
        }

        deinit {
            pthread_cond_destroy(condition)
            condition.deallocate()
        }

        /// Wakes one thread that waits.
        public func signal() { pthread_cond_signal(condition) }

        /// Gives up the lock of `monitor`, which the caller has, until it is woken; then has it again. May also return
        /// for no reason. False when the clock has reached `deadlineNanoseconds`; nil waits for ever.
        public func wait(_ monitor: Monitor, deadlineNanoseconds: UInt64?) -> Bool {
            guard let deadlineNanoseconds else {
                pthread_cond_wait(condition, monitor.mutex)
                return true
            }
            var time = timespec()
            time.tv_sec = .init(clamping: deadlineNanoseconds / 1_000_000_000)
            time.tv_nsec = .init(deadlineNanoseconds % 1_000_000_000)
            return pthread_cond_timedwait(condition, monitor.mutex, &time) != ETIMEDOUT
        }
    }
}
