// SPDX-License-Identifier: Apache-2.0
/// Log-linear buckets for durations in TSC cycles: 32 to an octave, exact below 64.
///
/// A bucket is at most 1/32 of its lower bound wide, so its midpoint is within 1.6 % of every value in it. Values of
/// 2^41 and more (13 minutes at 2.7 GHz) share the last bucket; sums and maxima stay exact beside it.
public enum CycleHistogram {
    @usableFromInline static let subBucketBits: UInt64 = 5

    /// Octaves 2^6 to 2^40 of 32 buckets each, after 64 buckets one cycle wide.
    public static let bucketCount = 64 + 35 * 32

    /// The bucket that `cycles` falls into, 0 to ``bucketCount`` - 1.
    @inlinable @inline(__always)
    public static func bucket(of cycles: UInt64) -> Int {
        // The shift that leaves six significant bits; below 64 it is 0 and the value is its own index.
        let shift = 58 &- UInt64(truncatingIfNeeded: (cycles | 32).leadingZeroBitCount)
        let index = Int(truncatingIfNeeded: (shift &<< subBucketBits) &+ (cycles &>> shift))
        return index < bucketCount ? index : bucketCount &- 1
    }

    /// The smallest value of a bucket, in cycles.
    public static func lowerBound(of bucket: Int) -> UInt64 {
        let shift = UInt64(max(0, bucket / 32 - 1))
        return (UInt64(bucket) - shift * 32) << shift
    }

    /// The largest value of a bucket, in cycles. The last bucket's is where its octave ends.
    public static func upperBound(of bucket: Int) -> UInt64 {
        lowerBound(of: bucket + 1) - 1
    }

    /// The value that stands for a bucket, in cycles: within 1.6 % of every value in it.
    public static func midpoint(of bucket: Int) -> UInt64 {
        let lower = lowerBound(of: bucket)
        return lower + (upperBound(of: bucket) - lower) / 2
    }
}
