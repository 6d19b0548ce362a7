// SPDX-License-Identifier: Apache-2.0
//
// On which processor a thread exchanges data with a host program. The kernel's buffers of a Unix socket are made by the
// sender's processor. Freed on another one they cost twice, and what is in them comes from another core's cache, so a
// thread that shares the processor of its peer carries more, even though the two take turns then. (Receive flow steering
// moves the kernel's part of a receive to the receiver for the same reason.) The scheduler often does the opposite: a
// thread that wakes up goes to a processor that is idle.
//
// A Unix socket does not tell where its peer runs, and programs move. So the thread tries, and looks at what a byte costs:
//
//              busy for eight windows          cheaper by three tenths
//      free ------------------------> trying --------------------------> following
//       ^                              |  ^                               |  |  |
//       |  eight in vain, or a proof   |  |  dearer: the peer has left;   |  |  |
//       +------------------------------+  |  or time for a proof          |  |  |
//       |                                 +-------------------------------+  |  |
//       |  less is carried: a pause                                          |  |
//       +--------------------------------------------------------------------+  |
//       |  the peer has ended, or is no longer the only one                     |
//       +-----------------------------------------------------------------------+
//
// A trial that finds a byte dearer than where the thread was makes it follow there. A peer that is gone during a trial, or
// soon after, and a proof in vain are failures, too. A pause comes after a failure. But where the thread is better off than
// free in spite of all its trials, it tries on; now and then it is free for a moment then, to see what that costs today.
//
// A window is a millisecond or more of the thread's work. A single one tells that a processor is good, or that a byte costs
// just what it costs elsewhere; nothing else: who has just come, or has been disturbed, has a dear one anywhere.

/// Decides where a thread that carries for host programs runs. It only decides: ``ThreadPlacement`` measures and moves.
struct PeerFollowing {
    /// What the thread is to do.
    enum Move: Equatable {
        /// Run on this processor only.
        case bind(Int)
        /// Run where the kernel wants it.
        case release
    }

    /// How much of its cost a byte may have at most, for a processor to be worth a change.
    static let worthwhileCost = 0.7
    /// What a byte may cost, of what it has cost here lately, before the peer seems to have left.
    static let tolerableCost = 1.3
    /// How far what a byte costs elsewhere may be from what it has cost there, in parts of it.
    static let costDeviation = 0.2
    /// How much of what was carried elsewhere must be carried at least, over ``rateWindowCount`` windows.
    static let tolerableRate = 0.9
    static let rateWindowCount = 16
    /// How much of it in each window: with less, the processor is taken by somebody else.
    static let sufficientRate = 0.5
    /// Busy windows that are the measure for what is tried then.
    static let referenceWindowCount = 8
    /// Processors that are tried, at most, before a pause.
    static let trialLimit = 8
    /// Windows after which a processor has to prove again that it is the better one.
    static let proofWindowCount = 256
    /// A processor that was right for fewer windows has not been of use.
    static let usefulWindowCount = 8
    /// How often in a row it may be of no use.
    static let uselessLimit = 6
    /// Nanoseconds until the next try after one in vain. When all processors have been tried, it is twice as long, unless
    /// the thread has followed for ``successWindowCount`` windows in between.
    static let firstPause: UInt64 = 25_000_000
    static let longestPause: UInt64 = 6_400_000_000
    static let successWindowCount = 64

    /// What the thread achieves with one peer.
    private struct Performance {
        let peer: Int32
        /// Nanoseconds of processor time that a byte takes.
        var cost: Double
        /// Bytes that are carried in a nanosecond.
        var rate: Double

        init(peer: Int32, _ window: TrafficWindow) {
            self.peer = peer
            cost = window.cost
            rate = window.rate
        }
    }

    /// All that has happened since the thread was free.
    private struct Chase {
        /// Windows that are looked back at, and those after which what they are measured by is too old.
        static let recentWindowCount = 128
        static let longestWindowCount = 1024
        /// How much of its cost a byte may have, with all trials, for more of them to be worthwhile.
        static let worthwhileCost = 0.85
        /// How fast a cost is forgotten that a byte has had elsewhere, or before.
        static let forgetting = 1.0005

        let reference: Performance
        /// Of the recent windows.
        var sum = TrafficWindow()
        var sumCount = 0
        var count = 0
        /// The least that a byte has cost for some windows.
        var bestCost = Double.infinity

        mutating func add(_ window: TrafficWindow) {
            sum.add(window)
            sumCount += 1
            count += 1
            if sumCount >= Self.recentWindowCount {
                sum.halve()
                sumCount /= 2
            }
        }

        /// Whether what a byte has cost the free thread still means something.
        var isYoung: Bool { count < Self.longestWindowCount }

        /// Whether the thread is better off than free, in spite of the trials.
        var pays: Bool {
            sumCount >= PeerFollowing.referenceWindowCount && sum.cost <= reference.cost * Self.worthwhileCost
                && sum.rate >= reference.rate * PeerFollowing.tolerableRate
        }

        /// Whether a byte that costs so much at a processor that is tried costs about as little as it can.
        func isGood(_ cost: Double) -> Bool { cost <= bestCost * PeerFollowing.tolerableCost }

        /// Whether it costs more at a processor than it has cost there, or elsewhere in this chase.
        func isDear(_ cost: Double, _ following: Following) -> Bool {
            let usual = min(following.cost, bestCost) * PeerFollowing.tolerableCost
            let worthwhile = following.reference.cost * PeerFollowing.worthwhileCost
            return cost > (bestCost.isFinite ? usual : max(usual, worthwhile))
        }

        /// A byte costs so much where the thread has been for some windows.
        mutating func follows(at cost: Double) { bestCost = min(bestCost * Self.forgetting, cost) }
    }

    private enum State {
        /// The sum of so many busy windows in a row with one peer.
        case free(TrafficWindow, count: Int)
        case trying(Trial)
        case following(Following)
    }

    private struct Trial {
        let processor: Int
        /// What it is measured by.
        let reference: Performance
        /// Processors that have been tried, this one included, and how many may be.
        let count: Int
        let limit: Int
        /// The processor of the reference, if the thread was at one: it may turn out to be the better one.
        let home: Following?
        /// The thread has been here for a window.
        var hasSettled = false
    }

    private struct Following {
        let processor: Int
        /// Elsewhere.
        var reference: Performance
        /// What a byte costs here.
        var cost: Double
        /// Windows since the start, or the proof.
        var count = 0
        /// Windows in a row that were dear, or carried little.
        var badCount = 0
        /// The sum of the last few windows with the peer, good or not, and how many they are.
        var recent = TrafficWindow()
        var recentCount = 0
    }

    private let processors: [Int]
    private var state = State.free(TrafficWindow(), count: 0)
    /// nil while the thread is free.
    private var chase: Chase?
    /// The processor that was tried last: the next try goes on from there.
    private var cursor: Int
    private var pause = Self.firstPause
    /// Time at which the next try may begin, in nanoseconds of the caller's clock.
    private var retryTime: UInt64 = 0
    private var uselessCount = 0
    /// Processors that have been tried, and windows in which the thread has followed, since the pause has changed.
    private var triedCount = 0
    private var followedCount = 0

    /// For a thread that may run on any of `processors`; nil when there is no choice.
    init?(processors: [Int]) {
        guard processors.count > 1, let last = processors.last else { return nil }
        self.processors = processors
        cursor = last
    }

    /// The processor that the thread is bound to.
    var bound: Int? {
        switch state {
        case .free: nil
        case .trying(let trial): trial.processor
        case .following(let following): following.processor
        }
    }

    /// A window has ended at `now`, on `processor`.
    mutating func ended(_ window: TrafficWindow, processor: Int, now: UInt64) -> Move? {
        chase?.add(window)
        return switch state {
        case .free(let sum, let count): free(sum, count, window, processor, now)
        case .trying(let trial): judge(trial, window, now)
        case .following(let following): follow(following, window, now)
        }
    }

    // MARK: Free

    private mutating func free(
        _ sum: TrafficWindow, _ count: Int, _ window: TrafficWindow, _ processor: Int, _ now: UInt64
    ) -> Move? {
        guard let peer = window.peer, window.isSignificant, window.busyNanoseconds > window.nanoseconds / 5 * 2,
            now >= retryTime
        else {
            state = .free(TrafficWindow(), count: 0)
            return nil
        }
        guard count == 0 || sum.peer == peer else {
            state = .free(window, count: 1)
            return nil
        }
        var sum = sum
        sum.add(window)
        guard count + 1 >= Self.referenceWindowCount else {
            state = .free(sum, count: count + 1)
            return nil
        }
        uselessCount = 0
        let reference = Performance(peer: peer, sum)
        chase = Chase(reference: reference)
        return tryNext(
            than: processor, reference: reference,
            home: Following(processor: processor, reference: reference, cost: reference.cost))
    }

    private mutating func release() -> Move {
        state = .free(TrafficWindow(), count: 0)
        chase = nil
        return .release
    }

    /// Tries on, if the thread is better off with all its trials than free.
    private mutating func goOn(than processor: Int, _ now: UInt64) -> Move {
        guard let chase, chase.pays else { return giveUp(now) }
        uselessCount = 0
        return tryNext(than: processor, reference: chase.reference)
    }

    private mutating func giveUp(_ now: UInt64) -> Move {
        if followedCount >= Self.successWindowCount {
            pause = Self.firstPause
            triedCount = 0
        } else if triedCount >= processors.count * 2 {
            pause = min(pause * 2, Self.longestPause)
            triedCount = 0
        }
        followedCount = 0
        retryTime = now + pause
        return release()
    }

    // MARK: Trying

    private mutating func tryNext(
        than processor: Int, reference: Performance, count: Int = 0, limit: Int = trialLimit, home: Following? = nil
    ) -> Move {
        repeat { cursor = processors.first { $0 > cursor } ?? processors[0] } while cursor == processor
        triedCount += 1
        state = .trying(Trial(processor: cursor, reference: reference, count: count + 1, limit: limit, home: home))
        return .bind(cursor)
    }

    private mutating func judge(_ trial: Trial, _ window: TrafficWindow, _ now: UInt64) -> Move? {
        let reference = trial.reference
        let isPeers = window.peer == reference.peer
        let isTaken = window.rate < reference.rate * Self.sufficientRate
        if isPeers, !isTaken, window.cost <= reference.cost * Self.worthwhileCost, chase?.isGood(window.cost) ?? true {
            state = .following(Following(processor: trial.processor, reference: reference, cost: window.cost))
            return nil
        }
        guard trial.hasSettled else {
            var trial = trial
            trial.hasSettled = true
            state = .trying(trial)
            return nil
        }
        guard isPeers else { return giveUp(now) }
        if var home = trial.home, home.cost <= window.cost * Self.worthwhileCost {
            // Elsewhere a byte costs more.
            home.reference.cost = window.cost
            home.reference.rate = (home.reference.rate + window.rate) / 2
            home.count = 0
            home.recent = TrafficWindow()
            home.recentCount = 0
            state = .following(home)
            return .bind(home.processor)
        }
        guard trial.count >= trial.limit else {
            return tryNext(
                than: trial.processor, reference: reference, count: trial.count, limit: trial.limit, home: trial.home)
        }
        // A proof that shows nothing: what a byte costs a thread that is free is no longer known.
        guard trial.limit > 1 else { return chase?.pays == true ? release() : giveUp(now) }
        // Nor is it what it has been anywhere.
        chase?.bestCost = .infinity
        return chase?.isYoung == true ? goOn(than: trial.processor, now) : release()
    }

    // MARK: Following

    private mutating func follow(_ old: Following, _ window: TrafficWindow, _ now: UInt64) -> Move? {
        var following = old
        let reference = following.reference
        following.count += 1
        followedCount += 1
        if following.count == Self.usefulWindowCount { uselessCount = 0 }
        let isPeers = window.peer == reference.peer
        if isPeers {
            following.recent.add(window)
            following.recentCount += 1
        }
        let isTaken = window.rate < reference.rate * Self.sufficientRate
        let isDear = chase?.isDear(window.cost, following) ?? true
        if !isPeers || isTaken || isDear {
            // As dear as elsewhere, no more and no less, is no chance.
            let isElsewhere = isPeers && isDear && abs(window.cost / reference.cost - 1) < Self.costDeviation
            following.badCount += isElsewhere ? 2 : 1
            state = .following(following)
            guard following.badCount >= 2 else { return nil }
            guard isPeers else { return following.count < Self.usefulWindowCount ? giveUp(now) : release() }
            return isDear ? left(following, now) : giveUp(now)
        }
        following.badCount = 0
        following.cost += (window.cost - following.cost) / 8
        if following.count >= Self.usefulWindowCount { chase?.follows(at: following.cost) }
        if following.recentCount >= Self.rateWindowCount {
            guard following.recent.rate >= reference.rate * Self.tolerableRate else { return giveUp(now) }
            if following.count >= Self.proofWindowCount { return prove(following) }
            following.recent = TrafficWindow()
            following.recentCount = 0
        }
        state = .following(following)
        return nil
    }

    /// The peer is somewhere else.
    private mutating func left(_ following: Following, _ now: UInt64) -> Move {
        // What all of this is measured by is too old.
        guard chase?.isYoung == true else { return release() }
        if following.count < Self.usefulWindowCount {
            uselessCount += 1
            guard uselessCount < Self.uselessLimit else { return goOn(than: following.processor, now) }
        }
        return tryNext(than: following.processor, reference: following.reference)
    }

    /// What was true for the traffic of some time ago need not be now: another processor is tried.
    private mutating func prove(_ following: Following) -> Move {
        var here = following.reference
        here.cost = following.cost
        here.rate = following.recent.rate
        return tryNext(than: following.processor, reference: here, limit: 1, home: following)
    }
}
